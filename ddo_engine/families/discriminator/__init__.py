"""Time-aware discriminators of real and generated images, the networks of discriminator guidance."""

from ddo_engine.families.discriminator.family import DiscriminatorFamily

FAMILY = DiscriminatorFamily()
