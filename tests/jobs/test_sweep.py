"""A sweep: all trials are accounted for, the best by validation loss is the model, and a rerun only does the rest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.fakes.jobs import job_here, kill_job, logged, start_job, wait_until
from tests.fakes.networks import write_random_weights
from tests.fakes.sources import write_source

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SIZE = ("--image-size", 32)
TRIALS, EPOCHS = 4, 3
FIT = ("--epochs", EPOCHS, "--head", "adam")


@dataclass(frozen=True)
class Lab:
    """A dataset and what to search on it."""

    dataset: Path
    sweep: Path

    def flags(self, output: Path) -> tuple[object, ...]:
        return ("--dataset", self.dataset, "--output", output, "--sweep", self.sweep, *FIT, *SIZE)


@dataclass(frozen=True)
class Sweep:
    """A finished sweep, killed once when a trial was over.

    Attributes:
        output: Its model folder.
        over_before: The files of the trials that were over when it was killed, and when they were written.
        was_complete: Whether it had a model then.
        summary: Of the run that went on.
        log: Of that run.
    """

    output: Path
    over_before: dict[Path, int]
    was_complete: bool
    summary: dict[str, Any]
    log: str

    @property
    def model(self) -> dict[str, Any]:
        return read(self.output / "model.json")

    @property
    def leaderboard(self) -> list[dict[str, Any]]:
        return list(pq.read_table(self.output / "sweep" / "leaderboard.parquet").to_pylist())

    def trial(self, number: int) -> Path:
        return self.output / "sweep" / "trials" / f"{number:04d}"


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


@pytest.fixture(scope="module")
def lab(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("sweep")
    source = write_source(folder / "source", {"liver": 12, "lung": 12, "skin": 12}, size=32)
    flags = ("--source", source, "--output", folder / "dataset", *SIZE, "--validation-fraction", 0.25)
    assert job_here("convert", *flags)["accepted"] == 42
    weights = write_random_weights(folder / "m.weights.h5", "MobileNet", alpha=0.25, input_shape=(32, 32, 3))
    plan = {
        "trials": TRIALS,
        "reduction_factor": 2,
        "parameters": {
            "model": {"values": [f"mobilenet:alpha=0.25,weights={weights}"]},
            "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
            "head_units": {"values": [0, 8]},
        },
    }
    (folder / "sweep.yaml").write_text(json.dumps(plan))
    return Lab(folder / "dataset", folder / "sweep.yaml")


@pytest.fixture(scope="module")
def sweep(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    output = tmp_path_factory.mktemp("swept") / "model"
    process = start_job("train", *lab.flags(output))
    try:
        wait_until(process, lambda: over(output), "a trial is over")
    finally:
        kill_job(process)
    over_before = {file: when for trial in over(output) for file, when in times(trial).items()}
    was_complete = (output / "model.json").exists()
    with logged() as log:
        summary = job_here("train", *lab.flags(output))
    return Sweep(output, over_before, was_complete, summary, log.getvalue())


def over(output: Path) -> list[Path]:
    return sorted(file.parent for file in output.glob("sweep/trials/*/trial.json"))


def times(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_every_trial_is_on_the_leaderboard_and_the_best_of_them_is_the_model(sweep: Sweep) -> None:
    rows, model = sweep.leaderboard, sweep.model
    assert sorted(row["trial"] for row in rows) == list(range(1, TRIALS + 1))
    losses = [row["val_loss"] for row in rows]
    assert losses[0] == min(losses)  # also of those that were ended early
    best = rows[0]
    assert not best["pruned"]
    assert model["sweep"]["best"] == best["trial"]
    assert model["sweep"]["parameters"] == json.loads(best["parameters"])
    assert model["metrics"]["val_loss"] == pytest.approx(best["val_loss"])
    assert model["name"] == "model"
    assert read(sweep.output / "sweep" / "leaderboard.json")["trials"][0]["trial"] == best["trial"]
    for row in rows:
        assert row["epochs"] == EPOCHS or row["pruned"]
        assert sweep.trial(row["trial"]).joinpath("model.json").exists() != row["pruned"]


def test_the_model_folder_holds_what_any_other_does(sweep: Sweep) -> None:
    best = sweep.trial(sweep.model["sweep"]["best"])
    for name in ("model.keras", "history.parquet", "curves.png", "seen_images.parquet", "reference.parquet"):
        assert (sweep.output / name).read_bytes() == (best / name).read_bytes()
    assert list(sweep.output.glob("tensorboard/head/train/events*"))
    assert len(pd.read_parquet(sweep.output / "history.parquet")) == sweep.model["metrics"]["epochs"]
    assert sweep.model["calibration"]["images"] == sweep.model["reference"]["validation_images"] == 9
    assert sweep.summary["trials"] == TRIALS
    assert sweep.summary["accuracy"] == sweep.model["metrics"]["val_accuracy"]


def test_features_of_a_base_are_computed_once_for_all_trials(sweep: Sweep) -> None:
    assert len(list((sweep.output / "features").iterdir())) == 1
    assert not list((sweep.output / "sweep").rglob("features"))


def test_the_same_sweep_again_trains_nothing(sweep: Sweep, lab: Lab) -> None:
    before = times(sweep.output)
    assert job_here("train", *lab.flags(sweep.output)) == sweep.summary
    assert times(sweep.output) == before


def test_a_killed_sweep_goes_on_with_the_trials_that_were_not_over(sweep: Sweep) -> None:
    trials = {file.relative_to(sweep.output).parts[2] for file in sweep.over_before}
    assert 1 <= len(trials) < TRIALS
    assert not sweep.was_complete
    assert f"{TRIALS} trials, {len(trials)} finished" in sweep.log
    assert {file: file.stat().st_mtime_ns for file in sweep.over_before} == sweep.over_before
