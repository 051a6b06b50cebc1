"""Whether an exported model says the same as the model that it was made from, on images made for that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.folders.export_folder import AgreementRecord
from lib.models.export.runtimes import FloatArray, Outputs, UInt8Array
from lib.models.probabilities import softmax

PROBABILITY_TOLERANCE = 1e-4
SQUARES_A_SIDE = (1, 2, 4, 8)
IMAGES_A_KIND = 6
PARTS = (1, 7, 8)
"""Sizes of the first batches, the last one repeated: an exported model has to take any number of images."""


def check_images(image_size: int) -> UInt8Array:
    """Images from a single colour to noise: squares of random colours, ever smaller, and black and white.

    Returns:
        uint8 (n, image_size, image_size, 3), the same ones at every call.
    """
    random = np.random.default_rng(0)
    kinds = [np.zeros((1, 1, 1, 3), np.uint8), np.full((1, 1, 1, 3), 255, np.uint8)]
    kinds += [
        random.integers(0, 256, (IMAGES_A_KIND, squares, squares, 3), np.uint8)
        for squares in (*SQUARES_A_SIDE, image_size)
    ]
    return np.concatenate([_enlarged(images, image_size) for images in kinds])


def _enlarged(images: UInt8Array, side: int) -> UInt8Array:
    """Square images at another size, each pixel as a square."""
    nearest = np.arange(side) * images.shape[1] // side
    return images[:, nearest][:, :, nearest]


def run_in_parts(run: Callable[[UInt8Array], Outputs], images: UInt8Array) -> Outputs:
    """The outputs for all images, computed in batches of several sizes.

    Args:
        run: From uint8 (n, size, size, 3) to its outputs.
        images: Shape (n, size, size, 3).
    """
    ends = list(np.cumsum(PARTS)) + list(range(sum(PARTS) + PARTS[-1], len(images), PARTS[-1]))
    parts = [run(np.ascontiguousarray(part)) for part in np.split(images, ends) if len(part)]
    return Outputs(
        np.concatenate([part.logits for part in parts]), np.concatenate([part.probabilities for part in parts])
    )


@dataclass(frozen=True)
class Agreement:
    """How far an exported model is from its original.

    Attributes:
        images: How many were compared.
        classes_predicted: How many different classes the original gives to these images.
        largest_difference: Largest difference of a probability, in [0, 1].
        largest_logit_difference: Largest difference of a logit.
        equal_top_1: Share of images with the same most probable class.
        clear_top_1_differences: Images with another most probable class though the original was clear about it: it is
            less probable there by more than the tolerance.
        finite: Whether every output is a number.
    """

    images: int
    classes_predicted: int
    largest_difference: float
    largest_logit_difference: float
    equal_top_1: float
    clear_top_1_differences: int
    finite: bool

    @property
    def is_the_same(self) -> bool:
        """Whether no probability differs by more than the tolerance, and no clear decision differs at all."""
        return self.finite and self.largest_difference <= PROBABILITY_TOLERANCE and not self.clear_top_1_differences

    @property
    def record(self) -> AgreementRecord:
        return AgreementRecord.model_validate({name: getattr(self, name) for name in AgreementRecord.model_fields})

    def __str__(self) -> str:
        return (
            f"probabilities differ by up to {self.largest_difference:.2g}, "
            f"the first class is equal for {self.equal_top_1:.1%} of {self.images} images"
        )


def measure_agreement(logits: FloatArray, exported: Outputs) -> Agreement:
    """Compare what an exported model says with what the original says of the same images.

    Args:
        logits: Logits of the original, shape (n, classes), n at least 1.
        exported: Outputs of the exported model, for the same images.

    Raises:
        ValueError: If the shapes differ.
    """
    if not logits.shape == exported.logits.shape == exported.probabilities.shape:
        shapes = f"{exported.logits.shape} logits and {exported.probabilities.shape} probabilities"
        raise ValueError(f"the exported model gives {shapes}; expected {logits.shape} of each")
    expected, found = softmax(logits), exported.probabilities
    first, first_found = expected.argmax(axis=1), found.argmax(axis=1)
    rows = np.arange(len(expected))
    lead = expected[rows, first] - expected[rows, first_found]
    return Agreement(
        images=len(logits),
        classes_predicted=len(np.unique(first)),
        largest_difference=_largest(found - expected),
        largest_logit_difference=_largest(exported.logits - logits),
        equal_top_1=float((first == first_found).mean()),
        clear_top_1_differences=int((lead > PROBABILITY_TOLERANCE).sum()),
        finite=bool(np.isfinite(found).all() and np.isfinite(exported.logits).all()),
    )


def _largest(differences: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.abs(differences).max())
