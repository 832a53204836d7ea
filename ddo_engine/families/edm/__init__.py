"""Diffusion models under EDM's preconditioning (Karras et al., arXiv:2206.00364)."""

from ddo_engine.families.edm.family import EDMFamily

FAMILY = EDMFamily()

__all__ = ["FAMILY", "EDMFamily"]
