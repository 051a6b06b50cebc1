"""The predictions of one evaluation, as far as the report needs them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction."""

    image_id: str
    path: str
    actual: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Predictions:
    """The predictions of one evaluation, without their probabilities; arrays of shape (n,).

    Attributes:
        image_ids: Of the n images.
        paths: Where they came from.
        actual: Classes as their place in the class names of the model.
        predicted: The same.
        confidence: Probability of the predicted class, in [0, 1].
        unfamiliar: How many lie far from all training images; None if the model has no reference.
        mistakes: The wrong ones that are shown, the most confident first.
    """

    image_ids: list[str]
    paths: list[str]
    actual: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    unfamiliar: int | None
    mistakes: tuple[Mistake, ...]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each was right."""
        return np.asarray(self.actual == self.predicted)

    @property
    def mistake_count(self) -> int:
        """All wrong ones."""
        return int((~self.right).sum())

    @property
    def mean_confidence(self) -> float:
        """In [0, 1]; 0 without images."""
        return float(self.confidence.mean()) if len(self.confidence) else 0.0

    @cached_property
    def correct(self) -> dict[str, bool]:
        """Whether each was right, by image id."""
        return dict(zip(self.image_ids, self.right.tolist(), strict=True))
