"""Python environments of workers: made from a lock, on the host itself or from wheels that were sent."""
