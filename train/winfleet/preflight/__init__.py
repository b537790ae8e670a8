"""May these hosts train? Pure functions on what hosts said, before anything is changed."""
