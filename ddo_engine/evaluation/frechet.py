"""Fréchet distance between two Gaussians."""

import torch
from torch import Tensor


def frechet_distance(mu1_D: Tensor, cov1_DD: Tensor, mu2_D: Tensor, cov2_DD: Tensor) -> float:
    """Return |mu1 − mu2|² + tr(C1 + C2 − 2 (C1 C2)^½), computed in float64.

    With C = B Bᵀ from each symmetric eigendecomposition, tr (C1 C2)^½ is the sum of the singular values of
    B1ᵀ B2. No square root of a non-symmetric matrix is taken, so that covariances of fewer samples than
    dimensions lose no digits: the singular values of null directions are noise of size eps, where the
    square roots of their squares would be noise of size √eps.

    Args:
        mu1_D: Mean of the first set.
        cov1_DD: Symmetric positive semi-definite.
        mu2_D: Mean of the second set.
        cov2_DD: Symmetric positive semi-definite.

    Returns:
        The squared distance, >= 0: what is called FID when the features are Inception's.

    Raises:
        ValueError: Shapes differ, or a number is not finite.

    Source: arXiv:1706.08500, eq. 6.
    """
    mu1_D, cov1_DD, mu2_D, cov2_DD = (tensor.detach().cpu().double() for tensor in (mu1_D, cov1_DD, mu2_D, cov2_DD))
    dim = mu1_D.numel()
    if mu2_D.shape != (dim,) or cov1_DD.shape != (dim, dim) or cov2_DD.shape != (dim, dim):
        raise ValueError("means and covariances must have one and the same dimension")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (mu1_D, cov1_DD, mu2_D, cov2_DD)):
        raise ValueError("means and covariances must be finite")
    overlap = torch.linalg.svdvals(_factor(cov1_DD).T @ _factor(cov2_DD)).sum()
    distance = (mu1_D - mu2_D).square().sum() + cov1_DD.trace() + cov2_DD.trace() - 2 * overlap
    return max(float(distance), 0.0)


def _factor(cov_DD: Tensor) -> Tensor:
    """Return B with B Bᵀ = C; eigenvalues within rounding error of zero count as zero."""
    eigenvalues_D: Tensor
    eigenvectors_DD: Tensor
    eigenvalues_D, eigenvectors_DD = torch.linalg.eigh((cov_DD + cov_DD.T) / 2)
    tolerance = eigenvalues_D.abs().max() * cov_DD.shape[0] * torch.finfo(torch.float64).eps
    kept_D = torch.where(eigenvalues_D > tolerance, eigenvalues_D, 0.0)
    return eigenvectors_DD * kept_D.sqrt()
