"""What an encoder wants its colour channels to be: RGB from 0 to 1, less a mean, divided by a standard deviation."""

import math
from collections.abc import Mapping

MEAN, STD = "mean", "std"
IMAGENET = {MEAN: (0.485, 0.456, 0.406), STD: (0.229, 0.224, 0.225)}
"""Of ImageNet's training images: what most encoders were trained with, and the default."""
CHANNELS = 3


def channel_values(options: Mapping[str, str], key: str) -> tuple[float, ...]:
    """Three numbers, for red, green and blue, from an option such as `mean=0.5` or `mean=0.48/0.46/0.41`.

    Args:
        options: Of a SPEC.
        key: `mean` or `std`; ImageNet's are given where the option is not.

    Raises:
        ValueError: If it is not one number or three, or a standard deviation is not positive.
    """
    if key not in options:
        return IMAGENET[key]
    try:
        values = [float(part) for part in options[key].split("/")]
    except ValueError:
        values = []
    smallest = 0 if key == MEAN else 1e-6
    if len(values) not in {1, CHANNELS} or not all(smallest <= value < math.inf for value in values):
        kind = "one number or three" if key == MEAN else "one positive number or three"
        raise ValueError(f"{key} is {options[key]!r}; expected {kind}, for RGB from 0 to 1, as 0.5 or 0.48/0.46/0.41")
    return tuple(values * (CHANNELS // len(values)))
