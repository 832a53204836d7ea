"""A residual MLP under EDM's preconditioning, for vectors and tiny images."""

from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.edm.embeddings import PositionalEmbedding
from ddo_engine.families.edm.layers import Linear
from ddo_engine.families.edm.preconditioning import PreconditionedDenoiser


class LayerNorm(nn.LayerNorm):
    """torch's, in the dtype of its input."""

    def forward(self, hidden_BW: Tensor) -> Tensor:
        """Return the normalised hidden state."""
        weight, bias = self.weight.to(hidden_BW.dtype), self.bias.to(hidden_BW.dtype)
        return functional.layer_norm(hidden_BW, self.normalized_shape, weight, bias, self.eps)


class ResidualBlock(nn.Module):
    """``h + second(silu(first(norm(h)) + modulation(embedding)))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.first = Linear(width, width)
        self.modulation = Linear(width, width)
        self.second = Linear(width, width)

    def forward(self, hidden_BW: Tensor, embedding_BW: Tensor) -> Tensor:
        """Return the updated hidden state, shape (B, width)."""
        inner = self.first(self.norm(hidden_BW)) + self.modulation(embedding_BW)
        update: Tensor = self.second(functional.silu(inner))
        return hidden_BW + update


class ResidualMLP(nn.Module):
    """F as an MLP on the flattened image; the last layer starts at zero."""

    def __init__(self, num_values: int, label_dim: int, width: int, num_blocks: int, embedding_channels: int) -> None:
        super().__init__()
        self.map_noise = PositionalEmbedding(embedding_channels)
        self.map_label = Linear(label_dim, embedding_channels, bias=False) if label_dim else None
        self.map_layer0 = Linear(embedding_channels, width)
        self.map_layer1 = Linear(width, width)
        self.input = Linear(num_values, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(num_blocks))
        self.norm = LayerNorm(width)
        self.output = Linear(width, num_values)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, x_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """Return F, shape (B, C, H, W).

        Raises:
            ValueError: Augmentation labels were given; this network has no input for them.
        """
        if augment_labels_BA is not None:
            raise ValueError("the MLP takes no augmentation labels")
        embedding = self.map_noise(c_noise_B)
        if self.map_label is not None and one_hot_BK is not None:
            embedding = embedding + self.map_label(one_hot_BK * self.map_label.in_features**0.5)
        embedding = functional.silu(self.map_layer1(functional.silu(self.map_layer0(embedding))))
        hidden = self.input(x_BCHW.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        output: Tensor = self.output(self.norm(hidden))
        return output.reshape(x_BCHW.shape)


class MLPPrecond(PreconditionedDenoiser):
    """The preconditioned residual MLP. 85,088 parameters for 8x8 grey images of 10 classes at its default size."""

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        sigma_data: float = 0.5,
        width: int = 96,
        num_blocks: int = 2,
        embedding_channels: int = 64,
    ) -> None:
        """Args: ``width`` of the hidden state, ``num_blocks`` residual blocks, ``embedding_channels`` (even)."""
        num_values = img_channels * img_resolution**2
        super().__init__(
            ResidualMLP(num_values, label_dim, width, num_blocks, embedding_channels),
            img_resolution=img_resolution,
            img_channels=img_channels,
            label_dim=label_dim,
            sigma_data=sigma_data,
        )
