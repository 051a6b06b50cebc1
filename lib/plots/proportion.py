"""How far a share of a small number of images can be from the truth."""

from math import sqrt

Z_95 = 1.959963984540054
"""Standard normal quantile of 0.975: half of what is outside a 95 % interval lies on either side."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share.

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half   = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Args:
        successes: How often it was right, 0 to `trials`.
        trials: How often it was tried, at least 0.

    Returns:
        Lower and upper end, both in [0, 1]; (0, 1) without any trial.

    Raises:
        ValueError: If `successes` is not between 0 and `trials`.

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; expected 0 to {trials}")
    if trials == 0:
        return 0.0, 1.0
    share, z2_n = successes / trials, Z_95**2 / trials
    centre = (share + z2_n / 2) / (1 + z2_n)
    half = Z_95 * sqrt(share * (1 - share) / trials + z2_n / (4 * trials)) / (1 + z2_n)
    return max(0.0, centre - half), min(1.0, centre + half)
