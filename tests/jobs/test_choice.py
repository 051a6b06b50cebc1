"""`--models auto`: the best of what was tried is trained, no test image has a say, and a rerun only does the rest."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib.config.chain import PipelineConfig
from lib.config.fitting import TrainConfig
from lib.errors import StorageError
from lib.evaluation.choice.candidates import plan_candidates
from lib.evaluation.choice.choose import Candidates, choose_model
from lib.evaluation.choice.left_out import left_out_probabilities
from lib.evaluation.choice.tried_images import TriedImages
from lib.folders.choice import ChoiceRecord
from lib.folders.model import ModelRecord
from lib.runs.status import read_status
from lib.storage.location import Location
from lib.training.trainer import train_model
from tests.fakes.jobs import job_here
from tests.fakes.networks import write_random_weights
from tests.fakes.sources import write_source

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SIZE = 32
CLASSES = {"liver": 14, "lung": 14, "skin": 9}
FIT = {"image_size": SIZE, "epochs": 2, "images_per_shard": 8, "batch_size": 8, "choice_images": 30}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "m.weights.h5"
    return write_random_weights(file, "MobileNet", alpha=0.25, input_shape=(SIZE, SIZE, 3))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("choice") / "source", CLASSES, size=SIZE)


def specs(weights: Path) -> tuple[str, str, str]:
    encoder = f"mobilenet:alpha=0.25,weights={weights}"
    return "cnn", encoder, f"{encoder},taps=last"


def config_for(source: Path, output: Path, *candidates: str, **changes: object) -> PipelineConfig:
    settings = {"source": str(source), "output": str(output), "models": ("auto", *candidates)}
    return PipelineConfig.model_validate(settings | FIT | changes)


def flags(config: PipelineConfig) -> tuple[object, ...]:
    fit = [part for name in FIT for part in (f"--{name.replace('_', '-')}", getattr(config, name))]
    return ("--source", config.source, "--output", config.output, "--models", *config.models, *fit)


def left_out(folder: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_parquet(file) for file in (folder / "left_out").glob("*.parquet")}


def times(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


Finished = tuple[PipelineConfig, dict[str, Any], list[str], dict[Path, int]]


@pytest.fixture(scope="module")
def finished(local_ray: None, source: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A pipeline that fails when its second candidate is to be tried, and is run again.

    Its settings, the summary, the SPECs that the second run tried, and the features that were there after the choice.
    """
    config = config_for(source, tmp_path_factory.mktemp("auto") / "out", *specs(weights))
    output = Path(config.output)
    told: list[str] = []

    def fails_at_the_second(tried: TriedImages, train: TrainConfig) -> object:
        if train.model != "cnn":
            raise StorageError("the network is gone")
        return left_out_probabilities(tried, train)

    def is_told(tried: TriedImages, train: TrainConfig) -> object:
        told.append(train.model)
        return left_out_probabilities(tried, train)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.evaluation.choice.choose.left_out_probabilities", fails_at_the_second)
        with pytest.raises(StorageError, match="the network is gone"):
            job_here("pipeline", *flags(config))
        states = {found.folder: found for found in read_status(Location(config.output))}
        assert (states["choice"].job, states["choice"].state) == ("choice", "failed")
        assert left_out(output / "choice").keys() == {"colours", "cnn"}
        patch.setattr("lib.evaluation.choice.choose.left_out_probabilities", is_told)
        features: dict[Path, int] = {}

        def train_noting(train: TrainConfig) -> ModelRecord:
            features.update(times(output / "features"))
            return train_model(train)

        patch.setattr("lib.runs.pipeline.train_model", train_noting)
        summary = job_here("pipeline", *flags(config))
    return config, summary, told, features


def test_the_candidate_of_the_least_left_out_loss_is_the_only_one_that_is_trained_and_tested(
    finished: Finished,
) -> None:
    config, summary, _, _ = finished
    output = Path(config.output)
    tables = left_out(output / "choice")
    losses = {name: table["loss"].mean() for name, table in tables.items() if name != "colours"}
    record = ChoiceRecord.read(Location(str(output / "choice")))
    assert losses.keys() == {"cnn", "mobilenet", "mobilenet-2"}
    assert record.chosen == min(losses, key=lambda name: losses[name])
    assert record.loss == pytest.approx(min(losses.values()))
    assert summary["models"].keys() == {record.chosen}
    assert summary["choice"]["chosen"] == record.chosen
    assert summary["choice"]["corrected_accuracy"] == record.corrected_accuracy
    assert [folder.name for folder in (output / "models").iterdir()] == [record.chosen]
    chosen = {candidate.name: candidate for candidate in record.candidates}[record.chosen]
    model = json.loads((output / "models" / record.chosen / "model.json").read_text())
    assert model["spec"] == chosen.spec
    page = (output / "report" / "report.html").read_text()
    assert f"{record.chosen} was chosen by" in page.replace("<wbr>", "")


def test_all_are_judged_by_the_same_training_images_each_left_out_once(finished: Finished) -> None:
    config, _, _, _ = finished
    output = Path(config.output)
    manifest = pd.read_parquet(output / "dataset" / "manifest.parquet").set_index("image_id")
    judged = None
    for table in left_out(output / "choice").values():
        named = table[["image_id", "label", "fold"]]
        judged = named if judged is None else judged
        pd.testing.assert_frame_equal(named, judged)
    assert judged is not None
    assert judged["image_id"].is_unique
    assert set(manifest.loc[judged["image_id"], "split"]) == {"train"}
    assert judged["label"].value_counts().to_dict() == {"liver": 11, "lung": 11, "skin": 8}  # of 12, 12 and 8


def test_a_second_run_tries_what_is_missing_alone_and_a_third_nothing(finished: Finished, weights: Path) -> None:
    config, summary, told, _ = finished
    assert told == list(specs(weights)[1:])
    before = times(Path(config.output) / "choice")
    again = job_here("pipeline", *flags(config))
    assert times(Path(config.output) / "choice") == before
    assert again["choice"] == summary["choice"]
    assert not [file for file in before if "networks" in file.parts]  # they have served their purpose
    states = {found.folder: found.state for found in read_status(Location(config.output))}
    assert states["choice"] == "done"
    assert set(states.values()) == {"done"}


def made(config: PipelineConfig, dataset: Path, folder: Path) -> tuple[ChoiceRecord, dict[str, pd.DataFrame]]:
    places = (Location(str(place)) for place in (dataset, folder / "features", folder / "choice"))
    record = choose_model(config, Candidates(plan_candidates(config), {}), *places)
    return record, left_out(folder / "choice")


def assert_equal(found: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert found.keys() == other.keys()
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, other[name], check_exact=False, rtol=1e-3)


def test_two_workers_choose_as_one_does(finished: Finished, source: Path, weights: Path, tmp_path: Path) -> None:
    one, _, _, _ = finished
    two = config_for(source, tmp_path, *specs(weights), num_workers=2)
    record, tables = made(two, Path(one.output) / "dataset", tmp_path)
    assert record.chosen == ChoiceRecord.read(Location(f"{one.output}/choice")).chosen
    assert_equal(tables, left_out(Path(one.output) / "choice"))


def test_test_images_with_other_labels_change_nothing(
    finished: Finished, source: Path, weights: Path, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "source")
    test = tmp_path / "source" / "test"
    for label, other in (("liver", "away"), ("lung", "liver"), ("skin", "lung"), ("away", "skin")):
        (test / label).rename(test / other)
    encoders = specs(weights)[1:]
    config = config_for(tmp_path / "source", tmp_path / "out", *encoders)
    job_here(
        "convert", "--source", config.source, "--output", tmp_path / "dataset", "--image-size", SIZE,
        "--images-per-shard", 8,
    )  # fmt: skip
    record, tables = made(config, tmp_path / "dataset", tmp_path)
    before = left_out(Path(finished[0].output) / "choice")
    assert record.chosen in {"mobilenet", "mobilenet-2"}
    del before["cnn"]
    assert_equal(tables, before)
    assert np.isfinite(record.corrected_loss or np.nan)


def test_training_the_chosen_encoder_computes_the_validation_images_alone(finished: Finished) -> None:
    config, _, _, before = finished
    assert ChoiceRecord.read(Location(f"{config.output}/choice")).chosen != "cnn"  # two epochs are too few for it
    after = times(Path(config.output) / "features")
    assert before.items() <= after.items()
    new = {file.relative_to(Path(config.output) / "features").parts[1] for file in after.keys() - before.keys()}
    assert new == {"validation"}
