"""From folders of evaluations, and the model and dataset folders they name, to a `Report`."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.config import ReportConfig
from lib.errors import SettingsError
from lib.report.pictures import evaluation_plots
from lib.report.records import (
    ClassCount,
    Dataset,
    Evaluation,
    Mistake,
    Overlap,
    Predictions,
    RefusedFile,
    Report,
    SweepTrial,
)
from lib.report.thumbnails import read_thumbnails
from lib.storage.filesystem import Location
from lib.storage.output import read_complete
from lib.storage.tables import read_table

MOST_REFUSED = 200
"""Quarantined files that are listed; the page states how many more there are."""
MOST_MISTAKES = 60
"""Misclassified images shown for each model; the page states how many more there are."""
MOST_TRIALS = 10
"""Trials of a sweep shown for each model; the page states how many more there are."""
SPLITS = ("train", "validation", "test")
PREDICTION_COLUMNS = ["image_id", "path", "label", "predicted", "correct", "confidence"]


def collect(config: ReportConfig) -> Report:
    """Read everything the page shows.

    Raises:
        SettingsError: If an evaluation folder, or the model or dataset folder it names, is not complete.
        StorageError: If a file cannot be read.
    """
    datasets: dict[str, Dataset] = {}
    return Report(tuple(_read_evaluation(Location(uri), datasets) for uri in config.evaluations))


def _read_evaluation(folder: Location, datasets: dict[str, Dataset]) -> Evaluation:
    record = read_complete(folder, "evaluation.json", "evaluate")
    model_folder, dataset_folder = Location(record["model_dir"]), Location(record["dataset"])
    model = _read_named(model_folder, "model.json", "train", folder)
    if dataset_folder.uri not in datasets:
        datasets[dataset_folder.uri] = _read_dataset(dataset_folder, folder)
    dataset = datasets[dataset_folder.uri]
    metrics = (folder / "metrics.json").read_json()
    return Evaluation(
        uri=folder.uri,
        record=record,
        metrics=metrics,
        model=model,
        dataset=dataset,
        predictions=_read_predictions(folder, dataset, record["split"]),
        plots=evaluation_plots(folder, model_folder, metrics, record["class_names"]),
        trials=_read_trials(model_folder) if "sweep" in model else (),
    )


def _read_trials(model_folder: Location) -> tuple[SweepTrial, ...]:
    rows = (model_folder / "sweep" / "leaderboard.json").read_json()["trials"][:MOST_TRIALS]
    shared = ("parameters", "val_loss", "val_accuracy", "epochs", "pruned")
    return tuple(SweepTrial(row["trial"], **{name: row[name] for name in shared}) for row in rows)


def _read_named(folder: Location, marker: str, made_by: str, named_by: Location) -> dict[str, Any]:
    try:
        return read_complete(folder, marker, made_by)
    except SettingsError as error:
        raise SettingsError(f"{error} (it is named by {(named_by / 'evaluation.json').uri})") from error


def _read_dataset(folder: Location, named_by: Location) -> Dataset:
    record = _read_named(folder, "dataset.json", "convert", named_by)
    columns = ["image_id", "path", "label", "split", "group", "checksum", "verdict", "reason", "detail"]
    manifest = read_table(folder / "manifest.parquet", columns)
    return Dataset(
        uri=folder.uri,
        record=record,
        counts_by_class=_class_counts(record["counts_by_split"]),
        refused=_refused_files(manifest),
        overlap=find_overlap(manifest),
    )


def _class_counts(by_split: Mapping[str, Mapping[str, Mapping[str, int]]]) -> tuple[ClassCount, ...]:
    order = [*SPLITS, *sorted(set(by_split) - set(SPLITS))]
    return tuple(
        ClassCount(split, name, *(int(counts.get(key, 0)) for key in ("accepted", "quarantined", "excluded")))
        for split in order
        for name, counts in sorted(by_split.get(split, {}).items())
    )


def _refused_files(manifest: pa.Table) -> tuple[RefusedFile, ...]:
    refused = manifest.filter(pc.equal(manifest["verdict"], "quarantined")).sort_by("path")
    fields = ["path", "label", "split", "reason", "detail"]
    return tuple(RefusedFile(**row) for row in refused.select(fields).slice(0, MOST_REFUSED).to_pylist())


def find_overlap(manifest: pa.Table) -> Overlap:
    """Which groups and which contents are in more than one split.

    Args:
        manifest: With columns `image_id`, `split`, `group`, `checksum` and `verdict`.
    """
    accepted = manifest.filter(pc.equal(manifest["verdict"], "accepted"))
    grouped, shared_groups, _ = _shared_between_splits(accepted, "group")
    checksummed, _, shared_contents = _shared_between_splits(accepted, "checksum")
    return Overlap(grouped, shared_groups, checksummed, shared_contents)


def _shared_between_splits(images: pa.Table, key: str) -> tuple[int, int, int]:
    """Images that have the key, values of it in several splits, and images with such a value."""
    known = images.filter(pc.is_valid(images[key]))
    counted = known.group_by(key).aggregate([("split", "count_distinct"), ("image_id", "count")])
    shared = counted.filter(pc.greater(counted["split_count_distinct"], 1))
    return known.num_rows, shared.num_rows, pc.sum(shared["image_id_count"]).as_py() or 0


def _read_predictions(folder: Location, dataset: Dataset, split: str) -> Predictions:
    table = read_table(folder / "predictions", PREDICTION_COLUMNS)
    wrong = table.filter(pc.invert(table["correct"])).sort_by([("confidence", "descending"), ("image_id", "ascending")])
    shown = wrong.slice(0, MOST_MISTAKES).to_pylist()
    return Predictions(
        correct=dict(zip(table["image_id"].to_pylist(), table["correct"].to_pylist(), strict=True)),
        mean_confidence=pc.mean(table["confidence"]).as_py() or 0.0,
        mistakes=_with_thumbnails(shown, dataset, split),
        mistake_count=wrong.num_rows,
    )


def _with_thumbnails(rows: Sequence[Mapping[str, Any]], dataset: Dataset, split: str) -> tuple[Mistake, ...]:
    thumbnails = read_thumbnails(dataset, split, [row["image_id"] for row in rows])
    return tuple(
        Mistake(
            image_id=row["image_id"],
            path=row["path"],
            actual=row["label"],
            predicted=row["predicted"],
            confidence=row["confidence"],
            thumbnail=thumbnails.get(row["image_id"]),
        )
        for row in rows
    )
