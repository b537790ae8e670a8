"""Errors that several rooms raise. Standard library alone, for Ansible's modules too."""


class HostError(Exception):
    """Why a host could not do what it was asked to; the text has the value and the fix."""
