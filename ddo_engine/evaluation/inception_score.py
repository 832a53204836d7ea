"""Inception score: how surely a classifier names each image, and how evenly its answers are spread over the classes.

Shapes: N images, K classes.
"""

import math

import torch
from torch import Tensor


def inception_score(probabilities_NK: Tensor, *, split_size: int = 5000) -> float:
    """Return ``exp(mean KL(p(y|x) || p(y)))``, averaged over consecutive splits of the images, computed in float64.

    Args:
        probabilities_NK: Class probabilities of each image, in order; each row sums to 1.
        split_size: Images a split; the last one may be smaller. 5,000 in the usual evaluation of 50,000 images.

    Returns:
        Between 1 (all images look alike) and K.

    Raises:
        ValueError: No images, no split size, or rows that are no probabilities.

    Source: arXiv:1606.03498, section 4; the splits as in arXiv:1801.01973, section 2.
    """
    if probabilities_NK.ndim != 2 or probabilities_NK.numel() == 0:
        raise ValueError(f"class probabilities have shape (N, K), not {tuple(probabilities_NK.shape)}")
    if split_size < 1:
        raise ValueError(f"a split has at least one image, not {split_size}")
    sums_N = probabilities_NK.sum(dim=1)
    if not bool((probabilities_NK >= 0).all() & ((sums_N - 1).abs() < 1e-3).all()):
        raise ValueError("class probabilities must not be negative, and each row must sum to 1")
    splits = torch.split(probabilities_NK, split_size)
    return math.fsum(_score(split.double()) for split in splits) / len(splits)


def inception_score_of_logits(logits_NK: Tensor, num_splits: int) -> float:
    """Return the score of a classifier's logits, averaged over so many consecutive splits of one size.

    Raises:
        ValueError: The images cannot be split so, or a logit is NaN.
    """
    return math.fsum(inception_scores_of_logits(logits_NK, num_splits)) / num_splits


def inception_scores_of_logits(logits_NK: Tensor, num_splits: int) -> list[float]:
    """Return the score of each split; errors as of :func:`inception_score_of_logits`."""
    num_images = len(logits_NK)
    if num_splits < 1 or num_images % num_splits:
        raise ValueError(f"{num_images} images cannot be cut into {num_splits} splits of one size")
    # Split by split: in float64 the logits of 50,000 images and 1,000 classes are half a gigabyte.
    splits = (split.double().softmax(dim=1) for split in torch.chunk(logits_NK, num_splits))
    return [inception_score(split, split_size=len(split)) for split in splits]


def _score(probabilities_NK: Tensor) -> float:
    marginal_K = probabilities_NK.mean(dim=0)
    # p ln p is 0 at p = 0, and the mean of p ln q over the images is q ln q.
    conditional_K = torch.special.xlogy(probabilities_NK, probabilities_NK).mean(dim=0)
    return math.exp(float((conditional_K - torch.special.xlogy(marginal_K, marginal_K)).sum()))
