"""The evaluation folder: predictions of one split, metrics, plots, maps, the Projector, and what to doubt."""

from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

import pyarrow.compute as pc

from lib.config.prediction import EvaluateConfig, MeasureConfig
from lib.dataset.shard_source import ShardSource
from lib.errors import DataError, SettingsError
from lib.evaluation.checks.label_errors import label_error_candidates
from lib.evaluation.checks.pairs import write_pair_thumbnails
from lib.evaluation.checks.run import run_checks
from lib.evaluation.checks.sites import embedded, site_record
from lib.evaluation.measures.group_answers import answer_groups, group_metrics
from lib.evaluation.measures.metrics import classification_metrics
from lib.evaluation.measures.slices import Answers, slice_table
from lib.evaluation.measures.stakes import Stakes
from lib.evaluation.predictor import predict_units
from lib.evaluation.views.drawing import prepare_drawing
from lib.evaluation.views.embeddings import Sample, resembling_training_images, show_in_projector, show_maps
from lib.evaluation.views.figures import PendingPlots, draw_maps
from lib.evaluation.views.map_maker import MapMaker
from lib.folders.checks import CHECKS, read_descriptors, write_near_duplicates
from lib.folders.evaluation import (
    EvaluationRecord,
    GroupMetrics,
    Metrics,
    SiteRecord,
    write_label_errors,
    write_slices,
)
from lib.folders.manifest import read_manifest
from lib.folders.model import ModelRecord, read_reference, read_seen_images
from lib.folders.output import OutputFolder, read_complete
from lib.folders.predictions import ScoredPredictions, read_account, read_predictions, write_groups
from lib.models.trust import refuse_programs
from lib.runtime.ray_data import start_ray
from lib.storage.checksum import crc32c
from lib.storage.location import Location


def evaluate_model(config: EvaluateConfig) -> EvaluationRecord:
    """Predict a split and measure, unless this very evaluation is already complete.

    Raises:
        SettingsError: If model or dataset are not complete folders, or do not fit each other.
        DataError: If the split has no image.
    """
    model, dataset = check_evaluation(config)
    refuse_programs(Location(config.model_dir), model.spec, trusts_saved_model=config.trust_saved_model)
    inputs = {"model_completed_at": model.completed_at, "dataset_hash": dataset.content_hash}
    if (columns_hash := dataset.record.columns_hash) is not None:
        inputs["columns_hash"] = columns_hash
    if config.costs is not None:
        inputs["costs"] = crc32c(Location(config.costs).read_bytes())
    folder = OutputFolder(Location(config.output), EvaluationRecord, config.identity(), inputs)
    return folder.once(lambda: _evaluate(config, model, dataset, folder))


def _evaluate(
    config: EvaluateConfig, model: ModelRecord, dataset: ShardSource, folder: OutputFolder[EvaluationRecord]
) -> EvaluationRecord:
    start_ray(config)
    maker = MapMaker(config.maps)  # now, since UMAP takes as long to compile as thousands of images to predict
    prepare_drawing()
    work = predict_units(dataset, config.split, config)
    predictions = read_predictions(folder.location)
    if predictions.num_rows != dataset.count(config.split):
        raise DataError(
            f"{predictions.num_rows} predictions for {dataset.count(config.split)} images in {config.output}"
        )
    scored = ScoredPredictions.of(predictions, model, dataset.folder, config.split)
    metrics = _measure(scored, config)
    metrics.write(folder.location)
    slices, groups = _slices(scored, config), _groups(scored, config)
    sample = Sample.of(scored, folder.location)
    pending = maker.begin(sample.embeddings)
    with ThreadPoolExecutor(1) as beside:  # which decodes, compresses and waits for TensorBoard
        projector = beside.submit(show_in_projector, sample, folder.location)
        plots = PendingPlots(scored, metrics, folder.location)
        doubts = _doubts(config, scored, model, dataset)
        drawn_as = plots.write()
    draw_maps(scored, show_maps(sample, pending.result(), folder.location), folder.location)
    account = read_account(folder.location)
    return folder.complete(
        EvaluationRecord(
            name=model.name,
            spec=model.spec,
            model_dir=config.model_dir,
            dataset=config.dataset,
            dataset_hash=dataset.content_hash,
            split=config.split,
            class_names=model.class_names,
            images=metrics.images,
            metrics=metrics,
            unfamiliar=account.unfamiliar,
            maps=list(config.maps),
            projector=projector.result(),
            drawn_as=dict(drawn_as),
            groups=groups,
            sites=_sites(sample, scored, model, dataset, config),
            slices=slices,
            **doubts,
            seconds=round(work.seconds, 3),
            images_per_s=round(work.images / work.seconds, 1),
        )
    )


def stakes_of(class_names: list[str], config: MeasureConfig) -> Stakes:
    """The order of the classes and what mistakes cost, as the settings say it; raises as `Stakes.of`."""
    return Stakes.of(class_names, config.ordered, Location(config.costs) if config.costs else None)


def _measure(scored: ScoredPredictions, config: EvaluateConfig) -> Metrics:
    return classification_metrics(
        scored.actual,
        scored.probabilities,
        scored.class_names,
        groups=scored.groups_in_order,
        temperature=scored.temperature,
        stakes=stakes_of(scored.class_names, config),
        resamples=config.bootstrap_resamples,
    )


def _slices(scored: ScoredPredictions, config: EvaluateConfig) -> int | None:
    """Write the measures by column, and say how many rows they are."""
    stakes = stakes_of(scored.class_names, config)
    answers = Answers(scored.actual, scored.probabilities, scored.groups_in_order, stakes)
    table = slice_table(answers, scored.columns, config.bootstrap_resamples)
    if not table.num_rows:
        return None
    write_slices(table, Location(config.output))
    return int(table.num_rows)


def _sites(
    sample: Sample, scored: ScoredPredictions, model: ModelRecord, dataset: ShardSource, config: EvaluateConfig
) -> SiteRecord | None:
    """How the model depends on sites, where some are known of the images that it was trained on."""
    if "site" not in scored.columns or not model.reference or model.dataset_hash != dataset.content_hash:
        return None
    known = read_manifest(dataset.folder, ["image_id", "label", "site", "group"])
    known = known.filter(pc.is_valid(known["site"])).combine_chunks()
    names = known["site"].unique().sort()
    reference = read_reference(Location(config.model_dir), ["image_id", "predicted", "embedding"])
    vectors = pc.list_flatten(reference["embedding"]).to_numpy().reshape(reference.num_rows, -1)
    training = embedded(reference, vectors, known, scored.class_names)
    return site_record(
        training,
        embedded(sample.predictions, sample.embeddings, known, scored.class_names),
        names.to_pylist(),
    )


def _groups(scored: ScoredPredictions, config: EvaluateConfig) -> GroupMetrics | None:
    """Write an answer for each group, and measure them; None where no group is known."""
    answers = answer_groups(scored.predictions, scored.class_names, config.group_answer)
    if not answers.num_rows:
        return None
    write_groups(answers, Location(config.output))
    return group_metrics(answers, scored.class_names, stakes_of(scored.class_names, config), config.bootstrap_resamples)


class _Doubts(TypedDict, total=False):
    """What `evaluation.json` says of them."""

    checks: str
    label_errors: int
    resembling: int


def _doubts(config: EvaluateConfig, scored: ScoredPredictions, model: ModelRecord, dataset: ShardSource) -> _Doubts:
    """Write what speaks against the data, and say how much of it there is and where."""
    output = Location(config.output)
    checks = Location(config.checks) if config.checks else output / CHECKS
    run_checks(dataset, config.split, checks, config)
    candidates = label_error_candidates(scored.predictions, scored.class_names)
    if config.split == "train":  # the model has learned these labels, wrong ones too
        candidates = candidates.slice(0, 0)
    write_label_errors(candidates, output)
    found: _Doubts = {"checks": checks.uri, "label_errors": candidates.num_rows}
    if model.reference and model.dataset_hash == dataset.content_hash and config.split != "train":
        descriptors = read_descriptors(checks)
        resembling = resembling_training_images(output, Location(config.model_dir), descriptors)
        write_near_duplicates(resembling, output)
        write_pair_thumbnails(resembling, config.split, dataset, checks, output)
        found["resembling"] = resembling.num_rows
    return found


def check_evaluation(config: EvaluateConfig) -> tuple[ModelRecord, ShardSource]:
    """Open model and dataset, and refuse a dataset that the model cannot be measured on.

    Returns:
        What `model.json` says, and the dataset.

    Raises:
        SettingsError: If one of the folders is not complete, image size or classes differ, or `--ordered` or
            `--costs` does not fit the classes.
        DataError: If the split has no image, or one that the model was trained on.
    """
    model, dataset = read_complete(Location(config.model_dir), ModelRecord), ShardSource.open(Location(config.dataset))
    if model.image_size != dataset.image_size:
        raise SettingsError(
            f"{config.model_dir} takes images of {model.image_size} px; {config.dataset} has {dataset.image_size} px"
        )
    unknown = sorted(set(dataset.class_names) - set(model.class_names))
    if unknown:
        raise SettingsError(f"{config.model_dir} does not know class {unknown[0]!r} of {config.dataset}")
    stakes_of(model.class_names, config)
    if not dataset.count(config.split):
        raise DataError(f"{config.dataset} has no image in split {config.split!r}")
    _refuse_seen_images(model, dataset, config)
    return model, dataset


def _refuse_seen_images(model: ModelRecord, dataset: ShardSource, config: EvaluateConfig) -> None:
    """A score on images that were trained on says nothing; it is computed only if that split is asked for by name."""
    if config.split != "test" and model.dataset_hash == dataset.content_hash:
        return
    seen = read_seen_images(Location(config.model_dir))["checksum"].combine_chunks()
    known = pc.sum(pc.is_in(dataset.checksums([config.split])["checksum"], seen)).as_py()
    if known:
        raise DataError(
            f"{known} of {dataset.count(config.split)} images of split {config.split!r} of {config.dataset} were "
            f"trained or validated on by {config.model_dir}; a score on them would be meaningless"
        )
