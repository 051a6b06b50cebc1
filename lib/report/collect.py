"""From folders of evaluations, and the model, dataset and checks folders they name, to a `Report`."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.chain import ReportConfig
from lib.errors import SettingsError
from lib.evaluation.measures.comparison import compare
from lib.folders.checks import Checks, NearDuplicates, read_checks, read_near_duplicates
from lib.folders.choice import ChoiceRecord
from lib.folders.dataset import Dataset, read_dataset
from lib.folders.evaluation import (
    EvaluationRecord,
    Metrics,
    read_label_errors,
    read_layouts,
    read_slices,
)
from lib.folders.model import ModelRecord
from lib.folders.output import read_complete
from lib.folders.predictions import THUMBNAILS, Mistake, Predictions, read_predictions, read_thumbnails
from lib.folders.sweep import read_best_trials
from lib.plots.tiles import jpeg_sprite
from lib.report.pictures import evaluation_plots
from lib.report.report import Contest, Evaluation, Report, Thumbnails, comparable, ranked
from lib.storage.location import Location


def collect(config: ReportConfig) -> Report:
    """Read everything the page shows.

    Raises:
        SettingsError: If an evaluation folder, or the model, dataset or checks folder it names, is not complete; or the
            folder of a choice.
        StorageError: If a file cannot be read.
        DataError: If evaluations that name the same dataset and split have predictions of different images.
    """
    folders = _Folders()
    evaluations = _with_names_apart([folders.read_evaluation(Location(uri)) for uri in config.evaluations])
    choice = read_complete(Location(config.choice), ChoiceRecord) if config.choice else None
    return Report(evaluations, _contests(evaluations), _thumbnails(evaluations), choice)


class _Folders:
    """Reads folders that evaluations share only once."""

    def __init__(self) -> None:
        self.datasets: dict[str, Dataset] = {}
        self.checks: dict[str, Checks] = {}

    def read_evaluation(self, folder: Location) -> Evaluation:
        record = read_complete(folder, EvaluationRecord)
        model_folder = Location(record.model_dir)
        with _named_by(folder):
            model = read_complete(model_folder, ModelRecord)
            dataset = self._dataset(Location(record.dataset))
            checks = self._checks(Location(record.checks)) if record.checks else None
        metrics = Metrics.read(folder)
        layouts = read_layouts(folder)
        return Evaluation(
            uri=folder.uri,
            name=record.name,
            record=record,
            metrics=metrics,
            model=model,
            dataset=dataset,
            predictions=_read_predictions(folder, record.class_names),
            plots=evaluation_plots(folder, model_folder, metrics, record.class_names, layouts),
            trials=read_best_trials(model_folder) if model.sweep else (),
            layouts=layouts,
            checks=checks,
            resembling=read_near_duplicates(folder),
            label_errors=read_label_errors(folder),
            slices=read_slices(folder),
            has_thumbnails=(folder / THUMBNAILS).exists(),
        )

    def _dataset(self, folder: Location) -> Dataset:
        if folder.uri not in self.datasets:
            self.datasets[folder.uri] = read_dataset(folder)
        return self.datasets[folder.uri]

    def _checks(self, folder: Location) -> Checks:
        if folder.uri not in self.checks:
            self.checks[folder.uri] = read_checks(folder)
        return self.checks[folder.uri]


@contextmanager
def _named_by(evaluation: Location) -> Iterator[None]:
    """Say of a folder that is refused where its name comes from."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{error} (it is named by {(evaluation / EvaluationRecord.FILE).uri})") from error


def _read_predictions(folder: Location, class_names: list[str]) -> Predictions:
    table = read_predictions(folder)
    wrong = table.filter(pc.invert(table["correct"])).sort_by([("confidence", "descending"), ("image_id", "ascending")])
    rows = wrong.select(["image_id", "path", "label", "predicted", "confidence"]).to_pylist()
    mistakes = [Mistake(*row.values()) for row in rows]
    classes = pa.array(class_names, pa.string())
    known = "unfamiliar" in table.column_names and not table["unfamiliar"].null_count
    return Predictions(
        image_ids=table["image_id"].to_pylist(),
        paths=table["path"].to_pylist(),
        actual=pc.index_in(table["label"], classes).to_numpy().astype(np.int64),
        predicted=pc.index_in(table["predicted"], classes).to_numpy().astype(np.int64),
        confidence=table["confidence"].to_numpy().astype(np.float32),
        unfamiliar=int(pc.sum(table["unfamiliar"]).as_py() or 0) if known else None,
        mistakes=choose_mistakes(mistakes),
    )


def _with_names_apart(evaluations: list[Evaluation]) -> tuple[Evaluation, ...]:
    """Models of the same name, as of an earlier run, get the time of their evaluation; if that is equal, a number."""
    names = [one.name for one in evaluations]
    dated = [
        f"{one.name} ({(one.record.completed_at or one.uri)[:16].replace('T', ' ')})"
        if names.count(one.name) > 1
        else one.name
        for one in evaluations
    ]
    seen: Counter[str] = Counter()
    apart = []
    for one, name in zip(evaluations, dated, strict=True):
        seen[name] += 1
        apart.append(replace(one, name=f"{name} {seen[name]}" if dated.count(name) > 1 else name))
    return tuple(apart)


def _contests(evaluations: tuple[Evaluation, ...]) -> tuple[Contest, ...]:
    if not comparable(evaluations):
        return ()
    best, *others = ranked(evaluations)
    return tuple(
        Contest(best, other, compare(best.predictions.correct, other.predictions.correct, best.dataset.groups))
        for other in others
    )


def _thumbnails(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], Thumbnails]:
    singles: dict[tuple[str, str], set[str]] = defaultdict(set)
    tiles: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)  # a set in order
    for one in evaluations:
        key = (one.dataset.uri, one.split)
        singles[key] |= {mistake.image_id for mistake in one.predictions.mistakes}
        singles[key] |= {error.image_id for error in (one.label_errors.shown if one.label_errors else ())}
        tiles[key] |= dict.fromkeys(one.layouts.image_ids if one.layouts else ())
        for split, image_id in _paired(one):
            singles[one.dataset.uri, split].add(image_id)
    shown: dict[str, set[str]] = defaultdict(set)
    for key in {*singles, *tiles}:
        shown[key[0]].update(singles[key], tiles[key])
    kept = _kept_thumbnails(evaluations, shown)
    return {key: _of_split(kept[key[0]], singles[key], tiles[key]) for key in dict.fromkeys([*singles, *tiles])}


def _kept_thumbnails(
    evaluations: Sequence[Evaluation], shown: Mapping[str, Collection[str]]
) -> dict[str, dict[str, bytes]]:
    """JPEGs by dataset and image: all evaluations of a dataset keep the same, so what one has is not sought again."""
    kept: dict[str, dict[str, bytes]] = defaultdict(dict)
    for one in evaluations:
        jpegs = kept[one.dataset.uri]
        for folder in [one.uri, *([one.checks.uri] if one.checks else [])]:
            jpegs |= read_thumbnails(Location(folder), set(shown[one.dataset.uri]) - jpegs.keys())
    return kept


def _of_split(jpegs: Mapping[str, bytes], singles: Iterable[str], tiles: Iterable[str]) -> Thumbnails:
    single, tile = ({name: jpegs[name] for name in names if name in jpegs} for names in (sorted(singles), tiles))
    return Thumbnails(single, jpeg_sprite(tile))


def _paired(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    found: list[NearDuplicates] = [evaluation.resembling] if evaluation.resembling else []
    found += [evaluation.checks.near_duplicates] if evaluation.checks else []
    for pair in (pair for pairs in found for pair in pairs.shown):
        for image in (pair.one, pair.other):
            yield image.split, image.image_id


MOST_MISTAKES = 300
"""Misclassified images shown for each model; the page states how many more there are."""
OF_EACH_PAIR = 3


def choose_mistakes(mistakes: Sequence[Mistake]) -> tuple[Mistake, ...]:
    """The most confident mistakes, and of each pair of confused classes the three most confident.

    Where there are too many pairs for three of each, every pair comes once before any comes twice.

    Args:
        mistakes: All of them, the most confident first.

    Returns:
        At most `MOST_MISTAKES`, the most confident first.
    """
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for place, mistake in enumerate(mistakes):
        turn = seen[mistake.actual, mistake.predicted]
        seen[mistake.actual, mistake.predicted] += 1
        turns.append((min(turn, OF_EACH_PAIR), place))
    return tuple(mistakes[place] for place in sorted(place for _, place in sorted(turns)[:MOST_MISTAKES]))
