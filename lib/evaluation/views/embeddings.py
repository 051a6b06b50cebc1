"""What the embeddings of an evaluation show: maps, the Projector, and training images that look like tested ones."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import DataError, one_line
from lib.evaluation.checks.near_duplicates import proposed_duplicates
from lib.evaluation.views.maps import MapArray, map_table
from lib.folders.checks import NEAR_DUPLICATE_SCHEMA
from lib.folders.evaluation import PROJECTOR, MapKind, ProjectorRecord, write_maps
from lib.folders.model import read_reference
from lib.folders.predictions import ScoredPredictions, read_embedding_parts, read_thumbnails
from lib.projector import (
    ProjectorPoints,
    choose_points,
    projector_files,
    unit_length,
    verify_projector,
    verify_projector_files,
)
from lib.storage.location import Location

logger = logging.getLogger(__name__)

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """A fair sample of the images of an evaluation.

    Attributes:
        predictions: Their rows (`PREDICTION_SCHEMA`).
        embeddings: Shape (n, d), in the same order.
    """

    predictions: pa.Table
    embeddings: Matrix

    @classmethod
    def of(cls, scored: ScoredPredictions, folder: Location) -> Self:
        """Choose.

        Raises:
            StorageError: If embeddings cannot be read.
        """
        predictions = scored.predictions.take(_chosen(scored.predictions))
        return cls(predictions, _embeddings(folder, predictions["image_id"].to_pylist()))

    @property
    def image_ids(self) -> list[str]:
        """In the same order."""
        return list(self.predictions["image_id"].to_pylist())


def show_maps(sample: Sample, maps: Mapping[MapKind, MapArray], folder: Location) -> pa.Table:
    """Write `maps.parquet` into an evaluation folder.

    Args:
        sample: What is shown.
        maps: Of its embeddings.
        folder: The evaluation folder.

    Returns:
        Rows of `MAP_SCHEMA`.
    """
    table = map_table(sample.image_ids, maps)
    write_maps(table, folder)
    return table


def show_in_projector(sample: Sample, folder: Location) -> ProjectorRecord:
    """Write `projector/` into an evaluation folder, and see whether TensorBoard shows it.

    Args:
        sample: What is shown.
        folder: The evaluation folder.

    Returns:
        What TensorBoard makes of the Projector.

    Raises:
        StorageError: If thumbnails cannot be read, or the files not written.
    """
    shown, ids = sample.predictions, sample.image_ids
    thumbnails = read_thumbnails(folder, ids)
    points = ProjectorPoints(
        sample.embeddings,
        shown["label"].to_pylist(),
        shown["predicted"].to_pylist(),
        shown["confidence"].to_numpy(),
        shown["path"].to_pylist(),
        [thumbnails[image_id] for image_id in ids],
    )
    problem = _write_projector(points, folder)
    return ProjectorRecord(points=len(ids), verified=problem is None, problem=problem)


def _chosen(predictions: pa.Table) -> npt.NDArray[np.intp]:
    return choose_points(predictions["label"].to_pylist(), predictions["image_id"].to_pylist())


def _embeddings(folder: Location, image_ids: list[str]) -> Matrix:
    """Of some images, in their order, shape (n, d)."""
    wanted = pa.array(image_ids, pa.string())
    found: dict[str, Matrix] = {}
    for ids, embeddings in _parts(folder, wanted):
        found |= dict(zip(ids, embeddings, strict=True))
    return np.stack([found[image_id] for image_id in image_ids])


def _parts(folder: Location, wanted: pa.Array | None = None) -> Iterator[tuple[list[str], Matrix]]:
    """Ids and embeddings, a part at a time."""
    for part in read_embedding_parts(folder):
        rows = part if wanted is None else part.filter(pc.is_in(part["image_id"], wanted))
        if rows.num_rows:
            yield rows["image_id"].to_pylist(), _matrix(rows["embedding"])


def _matrix(lists: pa.ChunkedArray) -> Matrix:
    return np.asarray(pc.list_flatten(lists).to_numpy().reshape(len(lists), -1), np.float32)


def _write_projector(points: ProjectorPoints, folder: Location) -> str | None:
    """Write the Projector's files, and say why TensorBoard does not show them; None if it does."""
    files = projector_files(points)
    (folder / PROJECTOR).write_many(files)
    written = {} if folder.is_local else dict(zip(files, (folder / PROJECTOR).read_many(list(files)), strict=True))
    try:
        if folder.is_local:
            verify_projector(Path(folder.path), PROJECTOR, points)
        else:
            verify_projector_files(written, points)
    except (DataError, ValueError) as error:  # what it answers may be no JSON
        logger.warning("the Projector of %s could not be verified: %s", folder.uri, one_line(error)[:300])
        return one_line(error)[:300]
    return None


def resembling_training_images(folder: Location, model_folder: Location, descriptors: pa.Table) -> pa.Table:
    """Tested images for which the model finds a training image that looks the same, as rows of `NEAR_DUPLICATE_SCHEMA`.

    Args:
        folder: Has the embeddings of the tested images.
        model_folder: Has its reference, of images of the same data set.
        descriptors: Rows of `DESCRIPTOR_SCHEMA` of that data set.
    """
    reference = read_reference(model_folder, ["image_id", "embedding"])
    known, known_embeddings = reference["image_id"].to_pylist(), _matrix(reference["embedding"])
    found = [
        proposed_duplicates(descriptors, ids, unit_length(embeddings), known, known_embeddings)
        for ids, embeddings in _parts(folder)
    ]
    return pa.concat_tables([NEAR_DUPLICATE_SCHEMA.empty_table(), *found])
