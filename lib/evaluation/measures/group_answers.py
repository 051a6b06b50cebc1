"""One answer for a slide or a patient from the answers for its images, and how good these are."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from lib.evaluation.measures.measures import NO_STAKES
from lib.evaluation.measures.metrics import classification_metrics
from lib.evaluation.measures.stakes import Stakes
from lib.folders.evaluation import GroupMetrics
from lib.folders.predictions import GROUP_SCHEMA
from lib.models.probabilities import SMALLEST_PROBABILITY, FloatArray, IntArray, softmax

GroupAnswer = Literal["mean", "majority"]
TIE = 1e-5


def answer_groups(predictions: pa.Table, class_names: list[str], how: GroupAnswer | None = None) -> pa.Table:
    """Answer each group by all of its images.

    The logits of an image are the logarithms of its probabilities but for a number that is the same for all classes, so
    that their mean over images gives

        p = softmax(mean of log p of the images)

    With `majority` the probabilities are shares of the images predicted as each class, but for a hundred-thousandth of
    the above: so that of classes with as many images, the more probable one is the answer.

    Args:
        predictions: Rows of `PREDICTION_SCHEMA`; those without a group are left out.
        class_names: The classes in order.
        how: The mean of logits unless told.

    Returns:
        Rows of `GROUP_SCHEMA`, in the order of the names of groups.
    """
    images = predictions.filter(pc.is_valid(predictions["group"])).combine_chunks()
    if not images.num_rows:
        return GROUP_SCHEMA.empty_table()
    names, of_image = np.unique(np.array(images["group"].to_pylist(), object), return_inverse=True)
    flat = pc.list_flatten(images["probabilities"]).to_numpy().astype(np.float64)
    probabilities = flat.reshape(images.num_rows, len(class_names))
    counts = np.bincount(of_image, minlength=len(names))
    logits = _by_group(np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)), of_image, len(names)) / counts[:, None]
    chosen = probabilities.argmax(axis=1)
    votes = _by_group(np.eye(len(class_names))[chosen], of_image, len(names)) / counts[:, None]
    together: FloatArray = softmax(logits)
    if how == "majority":
        together = (votes + TIE * together) / (1 + TIE)
    together, answer = together.astype(np.float32), together.astype(np.float32).argmax(axis=1)
    labels = _labels(images["label"].to_pylist(), of_image, len(names))
    predicted = [class_names[number] for number in answer]
    rows = np.arange(len(names))
    columns = {
        "group": names.tolist(),
        "images": counts,
        "label": labels,
        "predicted": predicted,
        "correct": [None if label is None else label == said for label, said in zip(labels, predicted, strict=True)],
        "confidence": together[rows, answer],
        "agreement": votes[rows, answer].astype(np.float32),
        "probabilities": list(together),
    }
    return pa.table(columns, schema=GROUP_SCHEMA)


def group_metrics(
    answers: pa.Table, class_names: list[str], stakes: Stakes = NO_STAKES, resamples: int = 2000
) -> GroupMetrics | None:
    """How good the answers for groups are; None where no group has images of one class alone.

    Args:
        answers: Rows of `GROUP_SCHEMA`.
        class_names: The classes in order.
        stakes: An order of the classes, and costs of mistakes.
        resamples: How many resamples of groups the intervals come from.
    """
    measured = answers.filter(pc.is_valid(answers["label"])).combine_chunks()
    if not measured.num_rows:
        return None
    actual = pc.index_in(measured["label"], pa.array(class_names, pa.string())).to_numpy().astype(np.int64)
    flat = pc.list_flatten(measured["probabilities"]).to_numpy()
    probabilities = flat.reshape(-1, len(class_names))
    metrics = classification_metrics(actual, probabilities, class_names, stakes=stakes, resamples=resamples)
    mixed = answers.num_rows - measured.num_rows
    return GroupMetrics(groups=answers.num_rows, of_several_classes=mixed, metrics=metrics)


def _by_group(values: FloatArray, of_image: IntArray, groups: int) -> FloatArray:
    of_group = csr_array((np.ones(len(of_image)), (of_image, np.arange(len(of_image)))), (groups, len(of_image)))
    return np.asarray(of_group @ values)


def _labels(labels: list[str | None], of_image: IntArray, groups: int) -> list[str | None]:
    """The label that all images of a group have; None where they have several, or none."""
    found: list[set[str | None]] = [set() for _ in range(groups)]
    for label, group in zip(labels, of_image.tolist(), strict=True):
        found[group].add(label)
    return [next(iter(names)) if len(names) == 1 else None for names in found]
