"""What the doctor makes of what it saw, without a Ray."""

import time
from collections import Counter
from pathlib import Path

import pytest
import ray

from lib.config.chain import DoctorConfig
from lib.errors import DataError
from lib.models.spec import parse_spec
from lib.runs.doctor import cluster, estimate
from lib.runs.doctor.diagnose import Diagnosis
from lib.runs.doctor.findings import NoAnswerError, look, within
from lib.runs.doctor.storage import Sample, judge_disk, judge_sample, list_source, write_output
from tests.fakes.sources import write_source


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


def test_nodes_with_other_versions_block_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cluster.describe_node()
    monkeypatch.setattr(cluster, "start_ray", lambda _: None)
    monkeypatch.setattr(cluster, "nodes_up", dict)
    monkeypatch.setattr(cluster, "ask_nodes", lambda *_, **__: {"10.0.0.7": here | {"ray": "2.9.0"}})
    finding, _ = cluster.check_nodes(config_for(tmp_path))
    assert finding.state == "blocks"
    assert f"ray is 2.9.0 on 10.0.0.7, {here['ray']} here" in finding.detail


def test_the_estimate_grows_with_epochs_and_falls_with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "source", {"liver": 4, "lung": 4})
    monkeypatch.setattr(estimate, "seconds_an_image", lambda *_: 0.01)
    plan = {"cnn": parse_spec("cnn"), "vgg16": parse_spec("vgg16")}

    def of(**changes: object) -> estimate.Estimate:
        config = config_for(source, **changes)
        return estimate.estimate(config, list_source(config), sample_of(), plan, cpus=2)

    short, long, on_gpu = of(epochs=1), of(epochs=10), of(epochs=10, use_gpu=True, gpu_speedup=10)
    assert short.train_s < long.train_s < 10 * short.train_s  # the frozen base runs once, whatever the epochs
    assert on_gpu.train_s == pytest.approx(long.train_s / 10)
    assert long.convert_s == pytest.approx(0.01 * list_source(config_for(source)).images.num_rows / 2)
    assert of(price_per_cpu_hour=0).cost == 0
    chosen = of(models=("auto", "cnn", "vgg16"), epochs=10)
    # 7 images train and 1 tests; a network from scratch is tried in five fits of four fifths of them
    cnn, vgg16, tried = 0.01 * (10 * 3 * 7 + 1), 0.01 * 8, 0.01 * (7 + 10 * 3 * 4 * 7 + 7)
    assert max(cnn, vgg16) + tried == pytest.approx(chosen.train_s, rel=0.2)


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
