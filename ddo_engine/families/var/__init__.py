"""Visual autoregressive models over token pyramids (Tian et al., arXiv:2404.02905)."""

from ddo_engine.families.var.family import VARFamily

FAMILY = VARFamily()

__all__ = ["FAMILY", "VARFamily"]
