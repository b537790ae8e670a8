"""A package with a module to start."""

NAME = "package"
