"""Checkpoints of the user's script: found where people write them, and whole on every host before ranks start."""
