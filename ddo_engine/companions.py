"""The networks that samples depend on besides the model that draws them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Companions:
    """An autoencoder is attached to its model, the others are handed to the sampler; numbers depend on all.

    Attributes:
        guide: What guides samples; None without.
        discriminator: What corrects them; None without.
        sha256s: Of their files, by the names that protocols, states and manifests give them.
    """

    guide: nn.Module | None = None
    discriminator: nn.Module | None = None
    sha256s: Mapping[str, str] = field(default_factory=dict)


NO_COMPANIONS = Companions()
