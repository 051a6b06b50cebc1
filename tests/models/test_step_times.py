"""How long a training step takes: taken for real, and the search for settings with which it is faster."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lib.config.chain import DoctorConfig
from lib.errors import TissueError
from lib.models.spec import parse_spec
from lib.runs.doctor.speed import takes_steps
from lib.runs.doctor.step_times import StepSettings, StepTime, faster_steps, measure_steps, settings_of

AS_SET = StepSettings(32, 4, "float32")


@dataclass
class Machine:
    """Takes 10 ms an image: so many times less in bfloat16 and in one part; and something more for every step.

    Attributes:
        room: Largest batch that fits.
        tried: All settings that were measured.
    """

    bfloat16: float = 1.0
    whole: float = 1.0
    overhead_s: float = 0.0
    room: int = 10_000
    tried: list[StepSettings] = field(default_factory=list)

    def __call__(self, settings: StepSettings) -> StepTime:
        self.tried.append(settings)
        if settings.batch_size > self.room:
            raise TissueError("no memory left")
        seconds = 0.01 * settings.batch_size
        seconds /= self.bfloat16 if settings.precision == "mixed_bfloat16" else 1
        seconds /= self.whole if settings.parts == 1 else 1
        return StepTime(settings, seconds + self.overhead_s, 1.0, 1024)


def found(machine: Machine, largest: int = 512, patience_s: float = 60.0) -> list[StepSettings]:
    return [step.settings for step in faster_steps(machine(AS_SET), machine, largest, patience_s)]


def test_what_helps_is_kept_and_what_does_not_is_not() -> None:
    assert found(Machine()) == []
    assert found(Machine(bfloat16=2, whole=0.9)) == [StepSettings(32, 4, "mixed_bfloat16")]
    assert found(Machine(bfloat16=0.5, whole=1.2)) == [StepSettings(32, 1, "float32")]
    assert found(Machine(bfloat16=1.05)) == []  # no more than noise


def test_batches_are_doubled_while_that_helps() -> None:
    machine = Machine(overhead_s=0.16)  # images/s: 66, 80, 89, 94
    assert [settings.batch_size for settings in found(machine)] == [64, 128]
    assert [settings.batch_size for settings in machine.tried] == [32, 32, 32, 64, 128, 256]


def test_no_batch_is_larger_than_it_may_be_or_than_fits() -> None:
    assert [settings.batch_size for settings in found(Machine(overhead_s=9.0), largest=100)] == [64]
    assert [settings.batch_size for settings in found(Machine(overhead_s=9.0, room=200))] == [64, 128]


def test_a_batch_that_may_not_fit_is_not_tried_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.runs.doctor.step_times.free_memory", lambda: 1500)  # a step takes 1024
    machine = Machine(overhead_s=9.0, bfloat16=2)
    found(machine)
    assert {settings.batch_size for settings in machine.tried} == {32}


def test_the_search_ends_when_patience_does() -> None:
    machine = Machine(overhead_s=9.0)
    assert found(machine, patience_s=-1.0) == []
    assert machine.tried == [AS_SET]


def test_the_flags_are_those_that_differ() -> None:
    assert StepSettings(64, 1, "float32").flags(AS_SET) == "--batch-size 64 --gradient-parts 1"
    assert StepSettings(32, 4, "mixed_bfloat16").flags(AS_SET) == "--precision mixed_bfloat16"
    assert AS_SET.flags(AS_SET) == ""


def config(tmp_path: Path, **changes: object) -> DoctorConfig:
    paths = {"source": str(tmp_path), "output": str(tmp_path / "out")}
    return DoctorConfig.model_validate(paths | {"image_size": 32, "batch_size": 8} | changes)


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        ("cnn", {"augment": ("flip", "stain"), "mixup": 0.2}),
        ("cnn_bn", {}),
    ],
)
def test_real_steps_are_taken_with_what_is_set(tmp_path: Path, spec: str, changes: dict[str, object]) -> None:
    settings = config(tmp_path, **changes)
    began = time.perf_counter()
    step = measure_steps(parse_spec(spec), settings, 3, 40, settings_of(settings))
    took_s = time.perf_counter() - began
    assert step.settings == StepSettings(8, 4, "float32")
    assert 0 < 2 * step.seconds < took_s
    assert 0 < step.first_s < took_s
    assert step.images_per_s == pytest.approx(8 / step.seconds)


def test_a_network_on_a_frozen_base_takes_steps_only_where_it_is_fine_tuned(tmp_path: Path) -> None:
    assert takes_steps(parse_spec("cnn"), config(tmp_path))
    assert not takes_steps(parse_spec("vgg16"), config(tmp_path, head="adam"))
    assert takes_steps(parse_spec("vgg16"), config(tmp_path, fine_tune_epochs=1))
