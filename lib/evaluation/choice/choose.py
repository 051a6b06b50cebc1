"""Tries the candidates of `--models auto` on training images, and chooses the one of the least cross-validated loss.

What each said of the images that it was fitted without is kept in `left_out/<name>.parquet` as soon as it is known, so
that a second run tries only what is missing; then follows `choice.json`.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lib.config.chain import PipelineConfig
from lib.config.fitting import FitConfig, TrainConfig
from lib.dataset.folds import FOLDS
from lib.dataset.shard_source import ShardSource
from lib.errors import DivergedError, TissueError, in_one_line
from lib.evaluation.choice.candidates import FLAG, describe_missing
from lib.evaluation.choice.left_out import colour_probabilities, left_out_probabilities
from lib.evaluation.choice.tried_images import TriedImages
from lib.evaluation.measures.optimism import RESAMPLES, corrected_choice
from lib.folders.choice import FLOOR, NETWORKS, ChoiceRecord, TriedModel, read_left_out, write_left_out
from lib.folders.output import OutputFolder
from lib.models.probabilities import FloatArray
from lib.models.spec import ModelSpec
from lib.runtime.ray_data import start_ray
from lib.storage.location import Location
from lib.training.precision import with_precision_of_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidates:
    """What is chosen from.

    Attributes:
        plan: All of them by name, in the order given.
        missing: Why some cannot be tried, by name.
    """

    plan: Mapping[str, ModelSpec]
    missing: Mapping[str, str]


def choose_model(
    config: PipelineConfig, candidates: Candidates, dataset: Location, features: Location, output: Location
) -> ChoiceRecord:
    """Choose a model, unless this very choice is complete.

    Args:
        dataset: The dataset folder, of which only training images are read.
        features: Where features of encoders are kept, to be found again when the chosen one is trained.
        output: The folder of the choice.

    Raises:
        TissueError: If no candidate could be tried, or from what failed.
    """
    source = ShardSource.open(dataset)
    settings = config.model_dump(mode="json", include=FitConfig.identity_fields() | {"seed", "choice_images"})
    settings["candidates"] = [spec.text for spec in candidates.plan.values()]
    folder = OutputFolder(output, ChoiceRecord, settings, {"dataset_hash": source.content_hash})
    train = config.part(TrainConfig, dataset=dataset.uri, source=None, features=features.uri)
    return folder.once(lambda: _Choice(train, candidates, source, folder).make(config.choice_images))


class _Choice:
    """One choice under way."""

    def __init__(
        self, train: TrainConfig, candidates: Candidates, source: ShardSource, folder: OutputFolder[ChoiceRecord]
    ) -> None:
        self._train, self._candidates, self._source, self._folder = train, candidates, source, folder
        self._reasons = dict(candidates.missing)

    def make(self, most: int) -> ChoiceRecord:
        """Try what has not been tried, and choose.

        Args:
            most: Images to try candidates on.
        """
        started = time.monotonic()
        tried = TriedImages.of(self._source, most, self._train.seed)
        start_ray(self._train)
        self._train = with_precision_of_run(self._train, self._folder)
        logger.info(
            "choose: %d models on %d training images, each without a fifth of them in turn",
            len(self._candidates.plan) - len(self._reasons), tried.images.num_rows,
        )  # fmt: skip
        tables = read_left_out(self._folder.location, [FLOOR, *self._candidates.plan])
        if FLOOR not in tables:
            tables[FLOOR] = self._keep(FLOOR, tried, colour_probabilities(tried, self._train))
        for name in self._candidates.plan:
            if name not in tables and name not in self._reasons:
                self._try(name, tried, tables)
        floor = tables.pop(FLOOR)
        if not tables:
            raise TissueError(
                f"{FLAG}: no candidate could be tried; {describe_missing(self._candidates.plan, self._reasons)}"
            )
        record = self._chosen(tried, tables, floor, time.monotonic() - started)
        _tell(record)
        return self._folder.complete(record)

    def _try(self, name: str, tried: TriedImages, tables: dict[str, pa.Table]) -> None:
        networks = self._folder.location / NETWORKS / name
        spec = self._candidates.plan[name]
        train = self._train.part(TrainConfig, model=spec.text, output=networks.uri)
        try:
            tables[name] = self._keep(name, tried, left_out_probabilities(tried, train))
        except DivergedError as error:
            self._reasons[name] = in_one_line(error)
            logger.warning("choose: %s is left out: %s", name, self._reasons[name])
        networks.delete()

    def _keep(self, name: str, tried: TriedImages, probabilities: FloatArray) -> pa.Table:
        table = tried.table(probabilities)
        write_left_out(table, self._folder.location, name)
        loss, accuracy = _measures(table)
        logger.info("choose: %s has a cross-validated loss of %.4f, accuracy %.3f", name, loss, accuracy)
        return table

    def _chosen(
        self, tried: TriedImages, tables: Mapping[str, pa.Table], floor: pa.Table, seconds: float
    ) -> ChoiceRecord:
        """What the record says, once all that can be tried is tried."""
        plan = self._candidates.plan
        names = [name for name in plan if name in tables]
        losses, hits = (
            np.stack([tables[name][column].to_numpy() for name in names], axis=1) for column in ("loss", "correct")
        )
        best, units = int(losses.mean(axis=0).argmin()), tried.units
        corrected = corrected_choice(losses, hits, units)
        won = dict(zip(names, corrected.won.tolist(), strict=True))
        loss, accuracy = _measures(tables[names[best]])
        floor_loss, floor_accuracy = _measures(floor)
        return ChoiceRecord(
            chosen=names[best],
            accuracy=accuracy,
            loss=loss,
            corrected_accuracy=corrected.accuracy,
            corrected_loss=corrected.loss,
            images=tried.images.num_rows,
            left_out=len(losses),
            groups=units.count if units.kind == "group" else None,
            folds=FOLDS,
            resamples=RESAMPLES,
            candidates=[self._described(name, tables.get(name), won.get(name)) for name in plan],
            floor=TriedModel(name=FLOOR, loss=floor_loss, accuracy=floor_accuracy),
            seconds=round(seconds, 3),
        )

    def _described(self, name: str, table: pa.Table | None, won: float | None) -> TriedModel:
        spec = self._candidates.plan[name].text
        if table is None:
            return TriedModel(name=name, spec=spec, reason=self._reasons[name])
        loss, accuracy = _measures(table)
        return TriedModel(name=name, spec=spec, loss=loss, accuracy=accuracy, won=won)


def _measures(table: pa.Table) -> tuple[float, float]:
    """Mean loss and accuracy of left-out predictions."""
    return float(table["loss"].to_numpy().mean()), float(table["correct"].to_numpy().mean())


def _tell(record: ChoiceRecord) -> None:
    text = f"choose: {record.chosen} is the best of {len(record.tried)}"
    if record.corrected_accuracy is not None:
        text += f"; corrected for the choice, its accuracy is {record.corrected_accuracy:.3f}"
    logger.info("%s", text)
    if record.colours_are_better:
        logger.warning("choose: colours alone have a lower loss than every candidate: none may know the tissue")
