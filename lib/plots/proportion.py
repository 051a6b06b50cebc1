"""How far a share of a small number of images can be from the truth."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share.

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
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
