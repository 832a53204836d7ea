"""EDM2's pretraining loss: EDM's, weighed by the uncertainty that the network predicts for each noise level."""

from torch import Tensor

from ddo_engine.families.diffusion.likelihood import NoiseDraw, squared_error
from ddo_engine.families.edm2.precond import Precond


def uncertainty_weighted_error(model: Precond, x0_BCHW: Tensor, labels_B: Tensor | None, noise: NoiseDraw) -> Tensor:
    """Return ``lambda(t) / e^u (D − x0)² + u`` with ``u = u(t)`` the network's log variance, element by element.

    For each noise level it is least where ``e^u`` is the mean of ``lambda (D − x0)²`` there, and then every noise level
    weighs the same in the gradient of D.

    Args:
        model: Its U-Net and its head of uncertainty both get gradients.
        x0_BCHW: Clean images or latents, float32.
        labels_B: int64 class indices; None asks for the null label.
        noise: Levels and noise of these rows.

    Returns:
        float32, shape (B, C, H, W). May be negative.

    Source: arXiv:2312.02696, eqs. 14–16 and 21.
    """
    u_B111 = model.logvar(noise.t_B)
    return squared_error(model, x0_BCHW, labels_B, noise) / u_B111.exp() + u_B111
