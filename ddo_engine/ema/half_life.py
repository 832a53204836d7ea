"""Averages whose past fades exponentially, their memory given as a half-life in thousands of images."""


def half_life_decay(batch_size: int, half_life_kimg: float) -> float:
    """Return the factor by which one step of ``batch_size`` images shrinks the average's past.

    Args:
        batch_size: Images per step.
        half_life_kimg: >= 0; with 0 the average remembers nothing.

    Source: arXiv:2206.00364, table 7 (EMA half-life).
    """
    return float(0.5 ** (batch_size / (half_life_kimg * 1000))) if half_life_kimg > 0 else 0.0


def ramped_half_life(half_life_kimg: float, images: int, rampup_ratio: float) -> float:
    """Return a half-life in kimg that is short as long as training is.

    Args:
        half_life_kimg: Of the long run.
        images: Seen so far: before the step in EDM, whose first average is then the first step's weights; after it in
            EDM2's average of this kind.
        rampup_ratio: Largest share of these images: 0.05 in EDM, 0.09 in EDM2.
    """
    return min(half_life_kimg, rampup_ratio * images / 1000)
