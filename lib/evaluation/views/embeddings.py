"""What the embeddings of an evaluation show: maps, the Projector, and training images that look like tested ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.prediction import EvaluateConfig
from lib.evaluation.checks.near_duplicates import proposed_duplicates
from lib.evaluation.views.maps import embedding_maps, map_table
from lib.folders.checks import NEAR_DUPLICATE_SCHEMA
from lib.folders.evaluation import PROJECTOR, write_maps
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

SEED = 0
Matrix = npt.NDArray[np.float32]


def show_embeddings(scored: ScoredPredictions, config: EvaluateConfig) -> pa.Table:
    """Write `maps.parquet` and `projector/` of a fair sample of the images, and see that TensorBoard shows it.

    Returns:
        Rows of `MAP_SCHEMA`.

    Raises:
        DataError: If TensorBoard does not serve the Projector as it should.
        StorageError: If embeddings or thumbnails cannot be read, or the results not written.
    """
    folder = Location(config.output)
    chosen = scored.predictions.take(_chosen(scored.predictions))
    ids = chosen["image_id"].to_pylist()
    embeddings = _embeddings(folder, ids)
    maps = map_table(ids, embedding_maps(embeddings, config.maps, SEED))
    write_maps(maps, folder)
    thumbnails = read_thumbnails(folder, ids)
    points = ProjectorPoints(
        embeddings,
        chosen["label"].to_pylist(),
        chosen["predicted"].to_pylist(),
        chosen["confidence"].to_numpy(),
        chosen["path"].to_pylist(),
        [thumbnails[image_id] for image_id in ids],
    )
    _write_projector(points, folder)
    return maps


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


def _write_projector(points: ProjectorPoints, folder: Location) -> None:
    files = projector_files(points)
    (folder / PROJECTOR).write_many(files)
    if folder.is_local:
        verify_projector(Path(folder.path), PROJECTOR, points)
    else:
        written = (folder / PROJECTOR).read_many(list(files))
        verify_projector_files(dict(zip(files, written, strict=True)), points)


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
