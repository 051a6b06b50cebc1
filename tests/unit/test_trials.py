"""What a sweep tries: drawn from a seed, and refused with one line before anything starts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lib.config.fitting import TrainConfig
from lib.config.resources import WorkerCount
from lib.errors import SettingsError
from lib.folders.history import HistoryRow
from lib.folders.sweep import TrialRecord, rank
from lib.training.search.trial import NAN_LOSS, TrialReport
from lib.training.search.trials import Trial, draw_trials, in_words, read_sweep

RATES = {"low": 1e-4, "high": 1e-1, "log": True}
CHOICE = {"values": [4, 8]}


def trials_of(tmp_path: Path, plan: Any, **settings: Any) -> list[Trial]:
    file = tmp_path / "sweep.yaml"
    file.write_text(plan if isinstance(plan, str) else json.dumps(plan))
    config = TrainConfig(output="/o", dataset="/d", sweep=str(file), **settings)
    return draw_trials(config, read_sweep(config))


def plan_of(trials: int = 5, **parameters: Any) -> dict[str, Any]:
    return {"trials": trials, "parameters": parameters}


def test_the_same_seed_draws_the_same_trials_and_another_seed_others(tmp_path: Path) -> None:
    plan = plan_of(learning_rate=RATES, batch_size=CHOICE)
    first = [trial.parameters for trial in trials_of(tmp_path, plan)]
    turned = {"parameters": dict(reversed(plan["parameters"].items())), "trials": 5}
    assert [trial.parameters for trial in trials_of(tmp_path, turned)] == first
    assert [trial.parameters for trial in trials_of(tmp_path, plan, seed=1)] != first
    assert [trial.parameters for trial in trials_of(tmp_path, plan | {"trials": 9})][:5] == first


def test_a_trial_trains_with_its_parameters_in_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second = trials_of(tmp_path, plan_of(2, augment={"values": [[], ["flip", "stain"]]}), num_workers=3)
    assert {trial.config.augment for trial in (first, second)} == {(), ("flip", "stain")}
    assert (first.folder.uri, second.folder.uri) == ("/o/sweep/trials/0001", "/o/sweep/trials/0002")
    assert first.config.features == second.config.features == "/o/features"
    assert (first.config.num_workers, first.config.sweep) == (WorkerCount(1, 1), None)
    json.dumps([first.parameters, second.parameters])


def test_every_combination_is_drawn_once(tmp_path: Path) -> None:
    space = {"model": {"values": ["cnn"]}, "batch_size": CHOICE, "patience": {"low": 2, "high": 4}}
    drawn = [tuple(trial.parameters.values()) for trial in trials_of(tmp_path, plan_of(6, **space))]
    assert sorted(drawn) == [(size, "cnn", patience) for size in (4, 8) for patience in (2, 3, 4)]


def test_ranges_are_kept_and_doublings_are_equally_likely_with_log(tmp_path: Path) -> None:
    rates = [trial.config.learning_rate or 0 for trial in trials_of(tmp_path, plan_of(300, learning_rate=RATES))]
    assert 1e-4 <= min(rates) < 2e-4
    assert 5e-2 < max(rates) <= 1e-1
    assert sum(rate < math.sqrt(1e-4 * 1e-1) for rate in rates) == pytest.approx(150, abs=35)


@pytest.mark.parametrize(
    ("plan", "culprit"),
    [
        ("trials: [", "is not YAML"),
        ("[1, 2]", "holds a list"),
        ({"parameters": {"batch_size": CHOICE}}, "trials is missing"),
        ({"trials": 2}, "parameters is missing"),
        ({"trials": 2, "parameters": {}}, "parameters {}"),
        (plan_of(0, batch_size=CHOICE), "trials 0"),
        (plan_of(batch_size=CHOICE) | {"speed": 1}, "unknown key 'speed'"),
        (plan_of(batch_size=CHOICE) | {"metric": "test_accuracy"}, "metric 'test_accuracy'"),
        (plan_of(batch_size=CHOICE) | {"reduction_factor": 1}, "reduction_factor 1"),
        (plan_of(batch_size=CHOICE) | {"grace_epochs": 0}, "grace_epochs 0"),
        (plan_of(batch_size={"value": [4]}), "unknown key 'parameters.batch_size.value'"),
        (plan_of(batch_size={"values": []}), "parameters.batch_size.values []"),
        (plan_of(batch_size={"values": [4, 4]}), "a value is given twice"),
        (plan_of(batch_size={"values": [4], "low": 2}), "give either values, or low and high"),
        (plan_of(learning_rate={"low": 0.1}), "give either values, or low and high"),
        (plan_of(learning_rate={"low": 0.1, "high": 0.01}), "low must be less than high"),
        (plan_of(learning_rate={"low": 0, "high": 0.01, "log": True}), "low must be positive"),
        (plan_of(learning_rate={"low": 0, "high": 0.01}), "parameters.learning_rate 0"),
        (plan_of(momentum={"values": [0.9]}), "parameters.momentum: expected one of augment"),
        (plan_of(image_size={"values": [32, 64]}), "parameters.image_size: expected one of"),
        (plan_of(num_workers={"values": [1, 2]}), "parameters.num_workers: expected one of"),
        (plan_of(batch_size={"values": [4, "many"]}), "parameters.batch_size 'many'"),
        (plan_of(batch_size={"low": 1.5, "high": 4}), "parameters.batch_size 1.5"),
        (plan_of(augment={"low": 0, "high": 1}), "parameters.augment"),
        (plan_of(augment={"values": [["flip"], ["shear"]]}), "parameters.augment.0 'shear'"),
        (plan_of(3, batch_size=CHOICE), "there are only 2 combinations"),
        (plan_of(1, model={"values": ["vgg17"]}), "trial 1 (model vgg17): unknown model 'vgg17'"),
        (plan_of(1, head_units={"values": [8]}), "trial 1 (head_units 8): --head-units"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_one_line(tmp_path: Path, plan: Any, culprit: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        trials_of(tmp_path, plan)
    message = str(refusal.value)
    assert message.startswith(f"--sweep {tmp_path}/sweep.yaml")
    assert culprit in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(output="/o", dataset="/d", sweep=str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match=r"none.yaml: there is no such file"):
        read_sweep(config)


def result(trial: int, loss: float | None, accuracy: float | None, *, pruned: bool = False) -> TrialRecord:
    return TrialRecord(
        trial=trial,
        parameters={},
        val_loss=loss,
        val_accuracy=accuracy,
        best_epoch=1,
        epochs=3,
        pruned=pruned,
        seconds=1.0,
    )


def test_trials_that_were_ended_early_or_have_no_loss_come_last() -> None:
    results = [
        result(1, None, None),
        result(2, 0.1, 0.9, pruned=True),
        result(3, 0.3, 0.8),
        result(4, 0.2, 0.7),
        result(5, 0.2, 0.7),
    ]
    assert [one.trial for one in rank(results, "val_loss")] == [4, 5, 3, 2, 1]
    assert [one.trial for one in rank(results, "val_accuracy")] == [3, 4, 5, 2, 1]


def test_parameters_are_said_in_words() -> None:
    assert in_words({"augment": ["flip", "stain"], "lr": 0.1}) == "augment flip+stain, lr 0.1"
    assert in_words({"augment": []}) == "augment none"


def rows_of(*losses: float) -> list[HistoryRow]:
    """A history whose validation accuracy tells the epoch."""
    return [
        HistoryRow(epoch, "fit", 0.5, 0.5, loss, epoch / 10, 1e-3, 1.5, 100.0, 0.0)
        for epoch, loss in enumerate(losses, start=1)
    ]


def test_a_report_has_the_numbers_of_the_best_epoch_so_far() -> None:
    assert TrialReport.of(rows_of(0.7, 0.3, 0.5)) == TrialReport(3, 0.3, 0.2, best_epoch=2, seconds=4.5)
    assert TrialReport.of(rows_of(math.nan, 0.9, 0.9)).best_epoch == 2
    assert TrialReport.of(rows_of(0.9)).has_model


def test_a_loss_that_is_no_number_is_reported_as_one_that_percentiles_can_be_taken_of() -> None:
    report = TrialReport.of(rows_of(math.nan, math.nan))
    assert (report.val_loss, report.has_model) == (NAN_LOSS, False)


@pytest.mark.parametrize("report", [TrialReport.of(rows_of(0.7, 0.3)), TrialReport.without_model(SettingsError("no"))])
def test_a_report_comes_back_from_ray_tune_as_it_was(report: TrialReport) -> None:
    added = {"done": False, "training_iteration": 2, "trial_id": "a", "config": {"number": 1}}
    assert TrialReport.from_tune(report.to_tune() | added) == report
