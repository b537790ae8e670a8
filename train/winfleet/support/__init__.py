"""One zip for a person who helps, without secrets."""
