"""Fréchet distance between two Gaussians."""

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps


def frechet_distance(mu1_D: Tensor, cov1_DD: Tensor, mu2_D: Tensor, cov2_DD: Tensor) -> float:
    """Return |mu1 − mu2|² + tr(C1 + C2 − 2 (C1 C2)^½), computed in float64.

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
    overlap = _trace_of_root((cov1_DD + cov1_DD.T).mul_(0.5), (cov2_DD + cov2_DD.T).mul_(0.5))
    distance = (mu1_D - mu2_D).square().sum() + cov1_DD.trace() + cov2_DD.trace() - 2 * overlap
    return max(float(distance), 0.0)


def _trace_of_root(cov1_DD: Tensor, cov2_DD: Tensor) -> Tensor:
    """Return tr (C1 C2)^½ without the root of a matrix that is not symmetric.

    With C = B Bᵀ it is the sum of the singular values of B1ᵀ B2. Their squares are the eigenvalues of B2ᵀ C1 B2, which
    take a fraction of the time but have errors of eps times the largest: the roots of null directions, where samples
    are fewer than dimensions, would be noise of √eps. So eigenvalues serve where the smallest is above their errors.
    """
    factors: list[Tensor] = []
    for cov_DD, other_DD in ((cov2_DD, cov1_DD), (cov1_DD, cov2_DD)):
        factor_DR, triangular = _factor(cov_DD)
        product = _lower_product if triangular else _product
        squares_R: Tensor = torch.linalg.eigvalsh(product(other_DD, factor_DR))
        if not len(squares_R) or squares_R[0] > 4 * len(cov_DD) * _EPS * squares_R[-1]:
            return squares_R.sqrt().sum()
        factors.append(factor_DR)
    singular_values_R: Tensor = torch.linalg.svdvals(factors[0].T @ factors[1])
    return singular_values_R.sum()


def _product(cov_DD: Tensor, factor_DR: Tensor) -> Tensor:
    """Return Bᵀ C B, shape (R, R)."""
    return factor_DR.T @ (cov_DD @ factor_DR)


def _lower_product(cov_DD: Tensor, factor_DD: Tensor) -> Tensor:
    """Return Bᵀ C B of a lower triangular B as far as eigenvalues ask for it: above the diagonal stands anything.

    In four blocks, without those that are zero and the one that is another's transpose: 9/16 of the multiplications.
    """
    half = len(factor_DD) // 2
    above, below, right = factor_DD[:half, :half], factor_DD[half:, :half], factor_DD[half:, half:]
    left_DH = cov_DD[:, :half] @ above + cov_DD[:, half:] @ below
    product_DD = torch.zeros_like(cov_DD)
    product_DD[:half, :half] = above.T @ left_DH[:half] + below.T @ left_DH[half:]
    product_DD[half:, :half] = right.T @ left_DH[half:]
    product_DD[half:, half:] = right.T @ (cov_DD[half:, half:] @ right)
    return product_DD


def _factor(cov_DD: Tensor) -> tuple[Tensor, bool]:
    """Return B with B Bᵀ = C, a column for each eigenvalue that is not zero within rounding error.

    And whether it is lower triangular.
    """
    factor_DD: Tensor
    factor_DD, singular = torch.linalg.cholesky_ex(cov_DD)
    if not singular:
        return factor_DD, True
    eigenvalues_D: Tensor
    eigenvectors_DD: Tensor
    eigenvalues_D, eigenvectors_DD = torch.linalg.eigh(cov_DD)
    kept_D = eigenvalues_D > eigenvalues_D.abs().max() * len(cov_DD) * _EPS
    return eigenvectors_DD[:, kept_D] * eigenvalues_D[kept_D].sqrt(), False
