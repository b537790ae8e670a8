"""What stands beside the trainer: one plan, a launcher on each host, a runner in each rank, and their status."""

__version__ = "0.1.0"
