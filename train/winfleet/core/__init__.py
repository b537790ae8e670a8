"""What all of the package shares: a run's plan and status, causes, files, small servers. It knows no other room."""
