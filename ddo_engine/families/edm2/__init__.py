"""Diffusion models whose layers preserve magnitudes (Karras et al., arXiv:2312.02696)."""

from ddo_engine.families.edm2.family import EDM2Family

FAMILY = EDM2Family()

__all__ = ["FAMILY", "EDM2Family"]
