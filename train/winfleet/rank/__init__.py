"""What happens inside a rank's process, beside the user's script."""
