"""What only real machines can show: the claims, and the programs that prove them on a cluster or one PC."""
