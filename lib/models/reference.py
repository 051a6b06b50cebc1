"""Embeddings of training images, with which those of later images are compared: is an image unlike all of them?

The embedding of an image is the input of the last layer of its network, scaled to unit length. An image is unfamiliar
if its k-th nearest reference image is farther away than those of nearly all validation images are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lib.folders.model import ReferenceRecord, read_reference
from lib.projector import unit_length
from lib.storage.location import Location

FloatArray = npt.NDArray[np.float32]

MOST_IMAGES = 10_000
NEIGHBOURS = 5
QUANTILE = 0.99
FEWEST_IMAGES = 20
"""Left-out images that can draw the line: beyond the farthest of n lies one ordinary image in n + 1."""
BLOCK = 1 << 22
"""Similarities that are held at one time: 16 MiB."""


@dataclass(frozen=True)
class Reference:
    """The reference images of a model.

    Attributes:
        embeddings: float32 (n, d), n at least 1, each row of unit length.
        threshold: The distance beyond which an image is unfamiliar; None where too few images could tell.
        neighbours: k; all n where there are fewer.
    """

    embeddings: FloatArray
    labels: list[str]
    threshold: float | None
    neighbours: int

    def distances(self, embeddings: FloatArray) -> FloatArray:
        """Cosine distance of images to their k-th nearest reference image (see `neighbour_distances`)."""
        return neighbour_distances(embeddings, self.embeddings, self.neighbours)

    def unfamiliar(self, distances: FloatArray) -> npt.NDArray[np.bool_] | None:
        """Which distances, float32 (m,), are above the threshold: bool (m,); None without one."""
        return None if self.threshold is None else np.asarray(distances > self.threshold)

    @classmethod
    def read(cls, model_folder: Location, record: ReferenceRecord | None) -> "Reference | None":
        """The reference of a model.

        Args:
            model_folder: Where it is.
            record: What its `model.json` says of it.

        Returns:
            None where the model has none, since there were no validation images.

        Raises:
            StorageError: If it cannot be read.
        """
        if record is None:
            return None
        rows = read_reference(model_folder, ["label", "embedding"])
        embeddings = pc.list_flatten(rows["embedding"]).to_numpy().reshape(rows.num_rows, -1)
        return cls(embeddings, rows["label"].to_pylist(), record.threshold, record.neighbours)


def neighbour_distances(embeddings: FloatArray, reference: FloatArray, neighbours: int) -> FloatArray:
    """How far each image is from its k-th nearest reference image.

    Args:
        embeddings: Embeddings of the images, float32 (m, d), of any length.
        reference: float32 (n, d), n at least 1, each row of unit length.
        neighbours: k, at least 1; where there are fewer reference images, the farthest of them counts.

    Returns:
        Cosine distances, 1 - cosine, in [0, 2], float32 (m,).

    Source:
        Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022.
    """
    place = max(len(reference) - neighbours, 0)  # of the k-th largest similarity, in ascending order
    rows = max(BLOCK // len(reference), 1)
    found = np.empty(len(embeddings), np.float32)
    for start in range(0, len(embeddings), rows):
        similarities = unit_length(embeddings[start : start + rows]) @ reference.T
        similarities.partition(place, axis=1)
        found[start : start + rows] = 1 - similarities[:, place]
    return np.asarray(np.clip(found, 0, 2))


def reference_record(images: int, distances: FloatArray) -> ReferenceRecord | None:
    """What `model.json` says of a reference.

    Args:
        images: Reference images.
        distances: Distances of the validation images, shape (m,).

    Returns:
        None where there are no reference or no validation images; without a threshold where there are fewer than
        `FEWEST_IMAGES`.
    """
    if not images or not len(distances):
        return None
    tells = len(distances) >= FEWEST_IMAGES
    return ReferenceRecord(
        images=images,
        neighbours=min(NEIGHBOURS, images),
        threshold=float(np.quantile(distances.astype(np.float64), QUANTILE)) if tells else None,
        quantile=QUANTILE,
        validation_images=len(distances),
    )
