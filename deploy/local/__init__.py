"""The whole service on one machine: real servers from binaries, no container engine."""
