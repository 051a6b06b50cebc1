"""What the doctor makes of what it saw, without a Ray."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
import ray

from lib.config.chain import DoctorConfig
from lib.errors import DataError
from lib.models.spec import parse_spec
from lib.runs.doctor import cluster
from lib.runs.doctor.diagnose import Diagnosis
from lib.runs.doctor.estimate import Estimate, estimate, images_by_split
from lib.runs.doctor.findings import NoAnswerError, look, within
from lib.runs.doctor.speed import ModelSpeed, judge_speed, judge_workers
from lib.runs.doctor.step_times import StepSettings, StepTime
from lib.runs.doctor.storage import Sample, judge_disk, judge_files, judge_sample, list_source, write_output
from tests.fakes.sources import write_source

AS_SET = StepSettings(32, 4, "float32")


def config_for(source: Path, **changes: object) -> DoctorConfig:
    return DoctorConfig.model_validate({"source": str(source), "output": str(source.parent / "out")} | changes)


def sample_of(refused: int = 0, encoded_bytes: float = 1e4) -> Sample:
    return Sample(0.001, 0.01, encoded_bytes, 10**6, Counter({"damaged": refused} if refused else {}), 20)


def test_what_does_not_answer_in_time_is_an_error() -> None:
    with pytest.raises(NoAnswerError, match="no answer within 0 s"):
        within(0.05, lambda: time.sleep(1))


def test_an_error_of_ours_blocks_with_its_message() -> None:
    def fail() -> str:
        raise DataError("the bucket is closed")

    assert look("source", fail).state == "blocks"
    assert look("source", fail).detail == "the bucket is closed"


@pytest.mark.parametrize(("refused", "allowed", "state"), [(0, 0, "ok"), (1, 0, "blocks"), (1, 0.1, "warning")])
def test_refused_images_block_unless_so_many_are_allowed(
    tmp_path: Path, refused: int, allowed: float, state: str
) -> None:
    finding = judge_sample(sample_of(refused), config_for(tmp_path, max_bad_fraction=allowed))
    assert finding.state == state
    assert ("damaged (1)" in finding.detail) == bool(refused)


def test_a_sample_that_does_not_decode_at_all_blocks_whatever_is_allowed(tmp_path: Path) -> None:
    assert judge_sample(sample_of(20), config_for(tmp_path, max_bad_fraction=1)).state == "blocks"


def test_a_data_set_that_does_not_fit_on_the_disk_blocks(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 2, "lung": 2})
    config = config_for(source)
    listing = list_source(config)
    assert judge_disk(sample_of(), listing, config).state == "ok"
    assert judge_disk(sample_of(encoded_bytes=1e15), listing, config).state == "blocks"


def test_files_that_differ_by_class_are_warned_of_before_anything_is_read(tmp_path: Path) -> None:
    listing = list_source(config_for(write_source(tmp_path / "source", {"liver": 30, "lung": 30})))
    assert judge_files(listing).state == "ok"
    images = listing.images
    heavier = pc.if_else(pc.equal(images["label"], "liver"), pc.add(images["size_bytes"], 10**6), images["size_bytes"])
    place = images.schema.get_field_index("size_bytes")
    finding = judge_files(replace(listing, images=images.set_column(place, images.schema.field(place), heavier)))
    assert finding.state == "warning"
    assert "by the size of the file (100 %)" in finding.detail
    assert judge_files(replace(listing, images=images.slice(0, 4))).state == "ok"


def test_nodes_with_other_versions_block_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cluster.describe_node()
    monkeypatch.setattr(cluster, "start_ray", lambda _: None)
    monkeypatch.setattr(cluster, "nodes_up", dict)
    monkeypatch.setattr(cluster, "ask_nodes", lambda *_, **__: {"10.0.0.7": here | {"ray": "2.9.0"}})
    finding, _ = cluster.check_nodes(config_for(tmp_path))
    assert finding.state == "blocks"
    assert f"ray is 2.9.0 on 10.0.0.7, {here['ray']} here" in finding.detail


def speed_of(*images_per_s: float, settings: tuple[StepSettings, ...] = (AS_SET,)) -> ModelSpeed:
    """Of a model that sees 100 images a second, and trains on so many, with each of the settings."""
    pairs = zip(settings, images_per_s, strict=True)
    return ModelSpeed(0.01, tuple(StepTime(some, some.batch_size / rate, 4.0) for some, rate in pairs))


def test_the_estimate_grows_with_epochs_and_falls_with_gpus(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 4, "lung": 4})
    plan = {"cnn": parse_spec("cnn"), "vgg16": parse_spec("vgg16")}
    speeds = {"cnn": speed_of(1 / 0.03), "vgg16": ModelSpeed(0.01)}

    def of(**changes: object) -> Estimate:
        config = config_for(source, **changes)
        splits = images_by_split(list_source(config))
        return estimate(config, splits, sample_of(), plan, speeds, cpus=2)

    short, long, on_gpu = of(epochs=1), of(epochs=10), of(epochs=10, use_gpu=True, gpu_speedup=10)
    assert short.train_s < long.train_s < 10 * short.train_s  # the frozen base runs once, whatever the epochs
    assert on_gpu.train_s == pytest.approx(long.train_s / 10)
    assert long.convert_s == pytest.approx(0.01 * list_source(config_for(source)).images.num_rows / 2)
    assert of(price_per_cpu_hour=0).cost == 0
    chosen = of(models=("auto", "cnn", "vgg16"), epochs=10)
    # 7 images train and 1 tests; a network from scratch is tried in five fits of four fifths of them
    cnn, vgg16, tried = 0.01 * (10 * 3 * 7 + 1), 0.01 * 8, 0.01 * (7 + 10 * 3 * 4 * 7 + 7)
    assert max(cnn, vgg16) + tried == pytest.approx(chosen.train_s, rel=0.2)


SPLITS = {"train": 6000, "validation": 1000, "test": 10}


def test_an_epoch_is_told_as_it_is_set_and_as_it_could_be(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    set_only = judge_speed("cnn", speed_of(100), config, SPLITS).detail
    assert set_only == (
        "cnn: 100 images/s with a batch of 32 in 4 parts, float32, once the first step is done, after 4 s; an epoch of "
        "6,000 images takes 70 s; nothing faster was found"
    )
    larger = StepSettings(64, 4, "mixed_bfloat16")
    found = judge_speed("cnn", speed_of(100, 300, settings=(AS_SET, larger)), config, SPLITS)
    assert found.state == "ok"
    assert found.detail.endswith(
        "; 300 images/s and 30 s with --batch-size 64 --precision mixed_bfloat16, which is another training: compare "
        "what comes of both"
    )
    whole = judge_speed("cnn", speed_of(100, 120, settings=(AS_SET, replace(AS_SET, parts=1))), config, SPLITS)
    assert whole.detail.endswith("with --gradient-parts 1, but then the weights depend on the number of workers")


def test_a_frozen_network_sees_its_images_once(tmp_path: Path) -> None:
    found = judge_speed("vgg16", ModelSpeed(0.02), config_for(tmp_path), SPLITS).detail
    assert found == (
        "vgg16: 50 images/s; the frozen network sees 6,000 images once, in 2 min, and epochs of its head take little"
    )


def test_what_the_cpus_measured_is_not_said_of_gpus_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.runs.doctor.speed.visible_gpus", lambda: 0)
    found = judge_speed("cnn", speed_of(100), config_for(tmp_path, use_gpu=True), SPLITS)
    assert found.state == "warning"
    assert found.detail.endswith("takes 70 s on the CPUs of this machine, since it has no GPU")


@pytest.mark.parametrize(
    ("flags", "nodes", "said"),
    [
        ({}, [{"CPU": 2.0}], "--num-workers 1 as set, one a machine, since TensorFlow uses all its cores"),
        ({}, [{"CPU": 2.0}, {"CPU": 4.0}, {}], "--num-workers 2 suits this cluster, one a machine"),
        (
            {"use_gpu": True},
            [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 2.0}],
            "--num-workers 4 suits this cluster, one a GPU; 1",
        ),
        ({"use_gpu": True, "num_workers": "1:4"}, [{"GPU": 4.0}], "--num-workers 1:4 as set, one a GPU"),
        ({"use_gpu": True}, [{"CPU": 2.0}], "no GPU machine is running yet; take as many as you want to pay for"),
    ],
)
def test_there_is_a_worker_for_each_gpu_or_machine(
    tmp_path: Path, flags: dict[str, object], nodes: list[dict[str, float]], said: str
) -> None:
    found = judge_workers(config_for(tmp_path, **flags), [{"Resources": held} for held in nodes])
    assert (found.state, found.detail[: len(said)]) == ("ok", said)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_output_is_tried_and_nothing_is_left_behind(tmp_path: Path) -> None:
    config = config_for(tmp_path / "source", output=str(tmp_path / "new/results"))
    before = tmp_path.stat().st_mtime_ns
    assert write_output(config) == f"{tmp_path}/new/results can be written"
    assert tmp_path.stat().st_mtime_ns != before
    assert files_below(tmp_path) == []


def test_an_output_that_cannot_be_written_blocks(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    finding = look("output", lambda: write_output(config_for(tmp_path, output=str(tmp_path / "file/results"))))
    assert finding.state == "blocks"
    assert "cannot write" in finding.detail
    assert files_below(tmp_path) == ["file"]


def test_a_ray_that_cannot_be_reached_blocks_and_what_needs_it_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source", {"liver": 2, "lung": 2}, test_per_class=1)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    findings = {finding.check: finding for finding in Diagnosis(config_for(source)).findings()}
    assert findings["Ray"].state == "blocks"
    assert "no Ray answers at RAY_ADDRESS=127.0.0.1:1" in findings["Ray"].detail
    assert findings["decoding"].state == "ok"
    assert not {"versions", "GPUs", "memory", "estimate"} & set(findings)
