"""A host's launcher: its ranks under PyTorch's elastic agent, its rendezvous, its notice board."""
