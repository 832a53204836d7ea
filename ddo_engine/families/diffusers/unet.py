"""A ``UNet2DModel`` of the library as a denoiser."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ddo_engine.families.diffusers.optional_package import network_class
from ddo_engine.families.diffusers.precision import call_in
from ddo_engine.families.diffusers.preconditioning import preconditioning_of
from ddo_engine.families.diffusers.timesteps import DiscreteTimesteps
from ddo_engine.families.diffusers.unet_config import UNetConfig
from ddo_engine.families.diffusion.denoiser import Denoiser, Labels, Scalings


class UNetDenoiser(Denoiser):
    """The library's network behind the four factors of :mod:`ddo_engine.families.diffusers.preconditioning`.

    The state dict is that of the ``UNet2DModel``, name by name, so that a checkpoint's file can take the place of
    ``diffusion_pytorch_model.safetensors`` in the folder that it came from.

    Attributes:
        sigma_max: The highest noise level that the network knows; None where nothing bounds it.
    """

    family: ClassVar[str] = "diffusers"

    def __init__(self, config: UNetConfig) -> None:
        """Build the network, randomly initialised.

        Raises:
            InvalidSpec: The library is not installed.
            ValueError: The library has no such network.
        """
        preconditioning = preconditioning_of(config.timesteps, config.prediction)
        super().__init__(
            img_resolution=config.unet.sample_size,
            img_channels=config.unet.in_channels,
            label_dim=config.unet.num_class_embeds or 0,
            sigma_data=preconditioning.sigma_data,
        )
        self.sigma_max = preconditioning.sigma_max
        self._preconditioning = preconditioning
        self._timesteps_are_integers = isinstance(config.timesteps, DiscreteTimesteps)
        unet: nn.Module = network_class("UNet2DModel")(**config.unet.model_dump())
        # Its parts are registered here in its stead, or every name would get a prefix; the tuple hides the whole.
        self._unet = (unet,)
        for name, part in unet.named_children():
            self.add_module(name, part)

    def network(
        self, scaled_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """See :meth:`ddo_engine.families.diffusion.denoiser.Denoiser.network`.

        Raises:
            ValueError: Augmentation labels were given; this network has no input for them.
        """
        if augment_labels_BA is not None:
            raise ValueError("networks of the diffusers library take no augmentation labels")
        timestep_B = c_noise_B.to(torch.int64) if self._timesteps_are_integers else c_noise_B
        class_labels_B = None if one_hot_BK is None else one_hot_BK.argmax(1)
        unet, dtype = self._unet[0], scaled_BCHW.dtype
        output: Tensor = call_in(dtype, unet, scaled_BCHW, timestep_B, class_labels_B, return_dict=False)[0]
        return output

    def free_form(
        self, x_BCHW: Tensor, sigma: Tensor | float, labels: Labels | None, augment_labels_BA: Tensor | None = None
    ) -> Tensor:
        """See :meth:`ddo_engine.families.diffusion.denoiser.Denoiser.free_form`.

        Raises:
            ValueError: As there; or a conditional model got no labels, or rows instead of class indices: the library's
                table of classes has no null label, and nothing between its rows.
        """
        if self.label_dim and (labels is None or torch.as_tensor(labels).is_floating_point()):
            raise ValueError("a class-conditional model of the diffusers library has no null label: give class indices")
        return super().free_form(x_BCHW, sigma, labels, augment_labels_BA)

    def scalings(self, sigma_B: Tensor) -> Scalings:
        """See :mod:`ddo_engine.families.diffusers.preconditioning`."""
        return self._preconditioning.scalings(sigma_B)

    def free_form_target(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """See :mod:`ddo_engine.families.diffusers.preconditioning`."""
        return self._preconditioning.target(x0_BCHW, t_B, eps_BCHW)
