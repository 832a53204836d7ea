"""Feature networks: their architectures, and the files that they come in."""
