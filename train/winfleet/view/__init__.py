"""What a run looks like: the live table, what its numbers mean, its records and plots."""
