"""What the controller asks of one host, and what the host says of itself."""
