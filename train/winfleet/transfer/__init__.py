"""Folders named by their content, and how they get to all hosts: copies, archives, the swarm."""
