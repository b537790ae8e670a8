"""A run's folder on a host: its state, its work folder, what its ranks inherit, how it is started and stopped."""
