"""Images whose label is probably wrong, by a model that was not trained on them."""

import warnings

import numpy as np
import pyarrow as pa

from lib.folders.evaluation import LABEL_ERROR_SCHEMA

FEWEST_CLASSES = 2
LEAST_ACCURACY = 0.75
"""Of a model that can doubt labels: in simulation, of those that a less accurate one names, three of four are right."""


def label_error_candidates(predictions: pa.Table, class_names: list[str]) -> pa.Table:
    """Candidates for a person to look at, by confident learning.

    An image counts as one of class j if its probability of j is at least the mean of that among the images labelled j.
    From how many images of each label count as another class, the number of wrong labels is estimated; those are named
    whose probabilities speak most for the other class.

    Args:
        predictions: Rows of `PREDICTION_SCHEMA` with labels, of images that the model was not trained on.
        class_names: In the order of the probabilities. Some may have no image among the predictions; no image is then
            taken for one of them.

    Returns:
        Rows of `LABEL_ERROR_SCHEMA`, the most doubtful label first; none where all labels are of one class, or the
        model is right on too few images (`LEAST_ACCURACY`) to be believed rather than the labels.

    Source:
        Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021;
        cleanlab's `find_label_issues`, which prunes by noise rate.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[label] for label in predictions["label"].to_pylist()], np.int64)
    probabilities = np.array(predictions["probabilities"].to_pylist(), np.float64)
    probabilities = probabilities.reshape(len(labels), len(class_names))
    if len(np.unique(labels)) < FEWEST_CLASSES or np.mean(probabilities.argmax(axis=1) == labels) < LEAST_ACCURACY:
        return LABEL_ERROR_SCHEMA.empty_table()
    found = _find_label_issues(labels, probabilities / probabilities.sum(axis=1, keepdims=True))
    rows = predictions.take(found)
    columns = {name: rows[name] for name in ("image_id", "path", "label", "predicted", "confidence")}
    scores = probabilities[found, labels[found]].astype(np.float32)
    return pa.table({**columns, "score": scores}, schema=LABEL_ERROR_SCHEMA)


def _find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        # Of a class without an image, and of one with a single image, which it leaves alone.
        warnings.filterwarnings("ignore", message="May not flag all label issues in class")
        found = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(found, np.int64)
