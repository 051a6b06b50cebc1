"""What `--precision auto` stands for, and that it stays so for a run, wherever that goes on."""

import ctypes
from pathlib import Path
from typing import Any

import pytest

from lib.config.fitting import TrainConfig
from lib.errors import SettingsError
from lib.folders.model import ModelRecord
from lib.folders.output import OutputFolder
from lib.runtime.gpus import compute_capability
from lib.storage.location import Location
from lib.training import precision
from lib.training.precision import fitting_precision, with_precision_of_run

Capability = tuple[int, int] | None


def settings(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"dataset": "/d", "output": "/o", "use_gpu": True} | changes)


def on_workers_with(monkeypatch: pytest.MonkeyPatch, capability: Capability) -> None:
    monkeypatch.setattr(precision, "capability_of_workers", lambda _: capability)


def begun(folder: Path, config: TrainConfig) -> OutputFolder[Any]:
    run = OutputFolder(Location(str(folder)), ModelRecord, config.identity())
    run.begin()
    return run


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), "mixed_bfloat16"), ((8, 0), "mixed_bfloat16"), ((7, 5), "float32"), (None, "float32")],
)
def test_a_gpu_of_capability_8_or_more_calculates_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: Capability, expected: str
) -> None:
    on_workers_with(monkeypatch, capability)
    assert fitting_precision(settings()) == expected


def test_a_cpu_calculates_in_float32_and_no_gpu_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "capability_of_workers", lambda _: pytest.fail("a GPU is asked"))
    assert TrainConfig(dataset="/d", output="/o").precision == "auto"
    assert fitting_precision(settings(use_gpu=False)) == "float32"


def test_a_run_that_goes_on_elsewhere_keeps_its_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    on_workers_with(monkeypatch, (9, 0))
    config = settings()
    assert with_precision_of_run(config, begun(tmp_path, config)).precision == "mixed_bfloat16"
    assert "precision: mixed_bfloat16 (--precision auto" in caplog.text
    on_workers_with(monkeypatch, (7, 5))
    resumed = settings(use_gpu=False)
    assert with_precision_of_run(resumed, begun(tmp_path, resumed)) == resumed.part(
        TrainConfig, precision="mixed_bfloat16"
    )
    with pytest.raises(SettingsError, match="precision is 'auto' there and 'float32' here"):
        begun(tmp_path, settings(precision="float32"))


def test_a_precision_that_is_asked_for_is_the_one_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_workers_with(monkeypatch, (9, 0))
    config = settings(precision="float32")
    assert with_precision_of_run(config, begun(tmp_path, config)) == config


class Driver:
    """NVIDIA's driver with one card, or none."""

    def __init__(self, capability: Capability) -> None:
        self._capability = capability

    def cuInit(self, flags: int) -> int:  # noqa: N802 - NVIDIA's name
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        return 101 if self._capability is None else 0  # CUDA_ERROR_INVALID_DEVICE

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        assert self._capability is not None
        value._obj.value = self._capability[{75: 0, 76: 1}[attribute]]
        return 0


@pytest.mark.parametrize("capability", [(9, 0), (7, 5), None])
def test_the_driver_tells_what_a_card_can(monkeypatch: pytest.MonkeyPatch, capability: Capability) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(capability))
    assert compute_capability() == capability


def test_without_nvidias_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert compute_capability() is None
