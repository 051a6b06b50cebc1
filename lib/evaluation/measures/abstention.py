"""What a model gains by leaving images unanswered that it is not sure of."""

import numpy as np
import numpy.typing as npt

from lib.folders.evaluation import AbstentionRow
from lib.models.probabilities import FloatArray

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def abstention_table(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> list[AbstentionRow]:
    """How many images are answered, and how well, if the model abstains below a confidence.

    Args:
        confidence: Probability of the predicted class, in [0, 1], shape (n,), n at least 1. It is compared with the
            threshold in its own precision, as `predict --min-confidence` does: 0.9 in float32 reaches 0.9.
        correct: Whether the prediction is right, shape (n,).

    Returns:
        A row for each of `THRESHOLDS`; answered are the images whose confidence is at least that.
    """
    rows = []
    for threshold in THRESHOLDS:
        answered = confidence >= confidence.dtype.type(threshold)
        accuracy = float(correct[answered].mean()) if answered.any() else None
        rows.append(AbstentionRow(min_confidence=threshold, answered=float(answered.mean()), accuracy=accuracy))
    return rows


def risk_coverage_curve(
    confidence: FloatArray, correct: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Accuracy of the most confident predictions, from the surest ones to all of them.

    Args:
        confidence: Probability of the predicted class, in [0, 1], shape (n,), n at least 1.
        correct: Whether the prediction is right, shape (n,).

    Returns:
        Coverage, the share of images answered, in (0, 1] and rising to 1; and the accuracy of these, in [0, 1]. Both of
        shape (distinct confidences,): images of equal confidence are answered together.

    Source:
        El-Yaniv and Wiener, On the Foundations of Noise-free Selective Classification, JMLR 11, 2010; risk is
        1 - accuracy.
    """
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    last_of_equal = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
    answered = last_of_equal + 1
    right = np.cumsum(correct[order], dtype=np.int64)[last_of_equal]
    return answered / len(falling), right / answered
