"""The predictions folder: what a model says of TIFFs that have no label."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from lib.config.prediction import PredictConfig
from lib.dataset.tiff_source import TiffSource
from lib.evaluation.measures.group_answers import answer_groups
from lib.evaluation.predictor import predict_units
from lib.folders.manifest import Accounting, Scale, manifest_table, write_manifest
from lib.folders.model import ModelRecord
from lib.folders.output import OutputFolder
from lib.folders.predictions import VERDICT_SCHEMA, PredictionsRecord, read_account, read_predictions, write_groups
from lib.ingest.listing import Listing, list_unlabelled
from lib.ingest.pixel_doubts import OTHER_SCALE, find_pixel_doubts, scale_of, tell_pixel_doubts
from lib.models.trust import read_trusted
from lib.storage.location import Location

logger = logging.getLogger(__name__)

MANY_UNFAMILIAR = 0.1


def predict_images(config: PredictConfig) -> PredictionsRecord:
    """Predict every TIFF of a folder tree, decoded just as the model's training images were.

    Raises:
        SettingsError: If the model folder is not complete, or the source has no TIFF.
        TooManyBadImagesError: If more images are refused than allowed; the manifest then names them.
    """
    model = read_trusted(Location(config.model_dir), trusts_saved_model=config.trust_saved_model)
    listing = list_unlabelled(Location(config.source), {"group": config.group_by, "site": config.site_by})
    inputs = {"model_completed_at": model.completed_at, "source_listing": listing.content_hash}
    folder = OutputFolder(Location(config.output), PredictionsRecord, config.identity(), inputs)
    return folder.once(lambda: _predict(config, model, listing, folder))


def _predict(
    config: PredictConfig, model: ModelRecord, listing: Listing, folder: OutputFolder[PredictionsRecord]
) -> PredictionsRecord:
    source = source_for(model, Location(config.source), listing, config.images_per_shard)
    work = predict_units(source, None, config, config.min_confidence)
    account = read_account(folder.location)
    manifest = manifest_of(listing, account.verdicts)
    accounting = Accounting.of(manifest, listing.ids)
    write_manifest(manifest, folder.location)
    accounting.refuse_too_many_bad(config.max_bad_fraction, folder.location)
    images = accounting.counts.accepted
    groups = _answer_groups(config, model, folder.location) if config.group_by is not None else None
    pixels = find_pixel_doubts(manifest, model.image_policy)
    scale = scale_of(manifest)
    tell_pixel_doubts(pixels, Location(config.source))
    warn_of_other_scale(scale, model, config)
    warn_of_unfamiliar(account.unfamiliar, images, config)
    return folder.complete(
        PredictionsRecord(
            name=model.name,
            class_names=model.class_names,
            model_dir=config.model_dir,
            source=config.source,
            counts=accounting.counts,
            reasons=accounting.reasons,
            images=images,
            unfamiliar=account.unfamiliar,
            abstained=account.abstained,
            groups=groups,
            pixels=pixels,
            micrometres=scale,
            seconds=round(work.seconds, 3),
            images_per_s=round(work.images / work.seconds, 1),
        )
    )


def _answer_groups(config: PredictConfig, model: ModelRecord, output: Location) -> int:
    """Write an answer for each group, and say how many there are."""
    answers = answer_groups(read_predictions(output), model.class_names, config.group_answer)
    write_groups(answers, output)
    return int(answers.num_rows)


def source_for(model: ModelRecord, folder: Location, listing: Listing, images_per_unit: int | None) -> TiffSource:
    """Listed TIFFs decoded as the training images of a model were, to the byte.

    Args:
        model: Which predicts.
        folder: What the listed paths are relative to.
        images_per_unit: See `lib.config.images.UnitConfig.images_per_shard`.
    """
    quality = model.image_encoding.quality if model.image_encoding else None
    return TiffSource(folder, listing, model.image_policy, images_per_unit, quality)


def manifest_of(listing: Listing, verdicts: pa.Table) -> pa.Table:
    """Rows of `MANIFEST_SCHEMA`: the listed images that have a verdict, in their order, then the excluded files.

    Args:
        verdicts: On images, in any order (`VERDICT_SCHEMA`).
    """
    places = pc.index_in(listing.images["image_id"], verdicts["image_id"].combine_chunks())
    has_verdict = pc.is_valid(places)
    images, found = listing.images.filter(has_verdict), verdicts.take(places.filter(has_verdict))
    columns = {name: images[name] for name in images.column_names}
    columns |= {name: found[name] for name in VERDICT_SCHEMA.names if name != "image_id"}
    columns["verdict"] = pc.if_else(pc.is_valid(found["reason"]), "quarantined", "accepted")
    return pa.concat_tables([manifest_table(columns, images.num_rows), listing.excluded])


def warn_of_other_scale(scale: Scale | None, model: ModelRecord, config: PredictConfig) -> None:
    """Say so where pixels are of another width than those of the training images."""
    if scale is None or model.micrometres is None:
        return
    trained = model.micrometres.median
    if max(scale.median, trained) > OTHER_SCALE * min(scale.median, trained):
        logger.warning(
            "the pixels of %s are %.3g micrometres wide, those that %s was trained on %.3g: bring the images to that "
            "scale, or do not rely on its predictions",
            *(config.source, scale.median, config.model_dir, trained),
        )


def warn_of_unfamiliar(unfamiliar: int | None, images: int, config: PredictConfig) -> None:
    """Say so where more than `MANY_UNFAMILIAR` of the images are unlike those that the model was trained on."""
    if unfamiliar and unfamiliar > MANY_UNFAMILIAR * images:
        logger.warning(
            "%d of %d images of %s are unlike those that %s was trained on; do not rely on its predictions for them "
            "(column unfamiliar)",
            *(unfamiliar, images, config.source, config.model_dir),
        )
