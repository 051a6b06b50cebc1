"""The predictions folder: what a model says of TIFFs that have no label."""

from typing import Any

import pyarrow as pa

from lib.config import ImageConfig, PredictConfig
from lib.dataset.source import TiffSource
from lib.evaluation.predictions import predict_units, read_verdicts
from lib.ingest.listing import Listing, list_unlabelled
from lib.ingest.manifest import MANIFEST_SCHEMA, Accounting
from lib.models.folder import read_model_record
from lib.storage.filesystem import Location
from lib.storage.output import OutputFolder
from lib.storage.tables import write_table

PREDICTIONS_FILE = "predictions.json"


def predict_images(config: PredictConfig) -> dict[str, Any]:
    """Predict every TIFF of a folder tree, decoded just as the model's training images were.

    Returns:
        The content of `predictions.json`.

    Raises:
        SettingsError: If the model folder is not complete, or the source has no TIFF.
        TooManyBadImagesError: If more images are refused than allowed; the manifest then names them.
    """
    model, listing = read_model_record(Location(config.model_dir)), list_unlabelled(Location(config.source))
    settings = {
        "model_dir": config.model_dir,
        "source": config.source,
        "images_per_shard": config.images_per_shard,
    }
    inputs = {"model_completed_at": model["completed_at"], "source_listing": listing.content_hash}
    folder = OutputFolder(Location(config.output), PREDICTIONS_FILE, settings, inputs)
    return folder.once(lambda: _predict(config, model, listing, folder))


def _predict(config: PredictConfig, model: dict[str, Any], listing: Listing, folder: OutputFolder) -> dict[str, Any]:
    work = predict_units(_source(model, listing, config), None, config)
    accounting = Accounting.of(manifest := _manifest(listing, folder.location), listing.ids)
    write_table(manifest, folder.location / "manifest.parquet")
    accounting.refuse_too_many_bad(config.max_bad_fraction)
    return folder.complete(
        {
            "name": model["name"],
            "class_names": model["class_names"],
            "model_dir": config.model_dir,
            "source": config.source,
            "counts": accounting.counts,
            "reasons": accounting.reasons,
            "images": accounting.counts["accepted"],
            "seconds": round(work.seconds, 3),
            "images_per_s": round(work.images / work.seconds, 1),
        }
    )


def _source(model: dict[str, Any], listing: Listing, config: PredictConfig) -> TiffSource:
    images = ImageConfig.model_validate(model["image_policy"])
    encoding = model["image_encoding"]
    quality = encoding["quality"] if encoding else None
    return TiffSource(Location(config.source), listing, images, config.images_per_shard, quality)


def _manifest(listing: Listing, output: Location) -> pa.Table:
    verdicts = read_verdicts(output)
    rows = []
    for row in listing.images.to_pylist():
        found = verdicts.get(row["image_id"])
        if found is not None:
            rows.append(row | found | {"verdict": "quarantined" if found["reason"] else "accepted"})
    return pa.concat_tables([pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), listing.excluded])
