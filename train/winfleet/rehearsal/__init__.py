"""May this cluster train, and how fast? Links, all-reduce and a step are measured before a run."""
