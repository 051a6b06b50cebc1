"""Checkpoints in a folder: read back as written, noticed when damaged, usable whenever the writer is killed."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import StorageError
from lib.folders.history import HistoryRow
from lib.storage.location import Location
from lib.training.fit import checkpoint
from lib.training.fit.checkpoint import KEPT, Arrays, Checkpoint, CheckpointFolder, TrainState

ROW = HistoryRow(1, "fit", 0.1 + 0.2, float("nan"), None, None, 1e-3, 2.5, 100.0, 0.01)


def weights(number: int) -> Arrays:
    random = np.random.default_rng(number)
    return [random.normal(size=(3, 5)).astype(np.float32), np.array(number), np.array([7, number], np.uint32)]


def state(epoch: int, step: int = 0, best_epoch: int | None = None) -> TrainState:
    best = epoch if best_epoch is None else best_epoch
    return TrainState(0, epoch, step, False, best, 1 / best if best else float("inf"), [ROW] * epoch, [1.5, 3.0])


def folder_of(path: Path) -> CheckpointFolder:
    return CheckpointFolder(Location(str(path)))


def write(path: Path, *states: TrainState) -> None:
    folder = folder_of(path)
    for number, one in enumerate(states):
        best = weights(100 + one.best_epoch) if one.has_best else []
        folder.save(Checkpoint(one, weights(number), weights(10 + number), best), wait=True)


def names(path: Path, kind: str) -> list[str]:
    return sorted(file.name for file in path.glob(f"{kind}-*"))


def assert_same(found: Arrays, expected: Arrays) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "one", [state(0, step=7), state(3), state(3, step=2, best_epoch=1), replace(state(2), phase=1, finished=True)]
)
def test_a_checkpoint_is_read_back_as_it_was_written(tmp_path: Path, one: TrainState) -> None:
    write(tmp_path, one)
    found = folder_of(tmp_path).newest()
    assert found is not None
    assert repr(found.state) == repr(one)  # NaN is not equal to itself
    assert_same(found.network, weights(0))
    assert_same(found.optimizer, weights(10))
    assert_same(found.best, weights(100 + one.best_epoch) if one.has_best else [])


def test_a_state_is_read_from_the_json_that_earlier_versions_wrote_too() -> None:
    row = (
        '{"epoch": 1, "phase": "fit", "loss": 0.30000000000000004, "accuracy": NaN, "val_loss": null, '
        '"val_accuracy": null, "learning_rate": 0.001, "seconds": 2.5, "images_per_s": 100.0, "wait_share": 0.01}'
    )
    text = (
        '{"phase": 0, "epoch": 1, "step": 7, "finished": false, "best_epoch": 1, "best_loss": 1.0, '
        f'"rows": [{row}], "sums": [1.5, 3.0]}}'
    )
    assert repr(TrainState.from_json(text)) == repr(state(1, step=7))
    written = asdict(state(1, step=7))
    assert list(written) == list(json.loads(text))
    assert list(written["rows"][0])[:10] == list(json.loads(row))  # later columns come after those of earlier versions


def test_many_arrays_keep_their_order(tmp_path: Path) -> None:
    many = [np.array(number) for number in range(120)]
    folder_of(tmp_path).save(Checkpoint(state(1), many, many[::-1], many[:50]), wait=True)
    found = folder_of(tmp_path).newest()
    assert found is not None
    for arrays, expected in ((found.network, many), (found.optimizer, many[::-1]), (found.best, many[:50])):
        assert_same(arrays, expected)


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert folder_of(tmp_path / "none").newest() is None


def test_checkpoints_sort_as_training_goes_on() -> None:
    later = [
        state(0, step=9), state(0, step=10), state(1), state(1, step=1), state(10), replace(state(4), finished=True),
        replace(state(10), finished=True), replace(state(0), phase=1), replace(state(1), phase=1, finished=True),
    ]  # fmt: skip
    assert [one.file_name for one in later] == sorted(one.file_name for one in later)


def test_no_more_than_the_last_checkpoints_and_their_best_weights_are_kept(tmp_path: Path) -> None:
    states = [state(epoch, best_epoch=min(epoch, 3)) for epoch in range(1, 7)]
    write(tmp_path, *states)
    assert names(tmp_path, "checkpoint") == [one.file_name for one in states[-KEPT:]]
    assert states[-1].best_name in names(tmp_path, "best")
    assert len(names(tmp_path, "best")) <= KEPT


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("kind", ["checkpoint", "best"])
def test_a_damaged_checkpoint_is_said_to_be_and_the_one_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, damage: Callable[[Path], None]
) -> None:
    write(tmp_path, state(1), state(2))
    damage(tmp_path / names(tmp_path, kind)[-1])
    with caplog.at_level(logging.WARNING):
        found = folder_of(tmp_path).newest()
    assert found is not None
    assert found.state.epoch == 1
    assert_same(found.network, weights(0))
    assert_same(found.best, weights(101))
    if (kind, damage) != ("checkpoint", Path.unlink):
        (record,) = caplog.records
        assert f"{tmp_path}/{state(2).file_name} is damaged" in record.getMessage()
        assert "using the checkpoint before it" in record.getMessage()


def test_training_goes_on_after_damage_as_if_the_damaged_file_were_not_there(tmp_path: Path) -> None:
    write(tmp_path, state(1), state(2))
    truncate(tmp_path / state(2).file_name)
    write(tmp_path, state(2), state(3))
    assert names(tmp_path, "checkpoint") == [state(2).file_name, state(3).file_name]
    found = folder_of(tmp_path).newest()
    assert found is not None
    assert found.state.epoch == 3


PACKED = checkpoint._packed(state(2), {"network": weights(0), "optimizer": weights(1)})


@settings(max_examples=300)
@given(st.integers(0, len(PACKED) - 1), st.integers(0, 7))
def test_every_flipped_bit_is_noticed(place: int, bit: int) -> None:
    data = bytearray(PACKED)
    data[place] ^= 1 << bit
    with pytest.raises(ValueError, match="has changed since"):
        checkpoint._unpacked(bytes(data))


class Killed(BaseException):
    """Ends the writer where no handler catches it."""


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_writer_killed_at_any_file_leaves_a_folder_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    write(tmp_path, state(1), state(2))
    write_bytes, delete, done = Location.write_bytes, Location.delete, []

    def write_until_killed(location: Location, data: bytes) -> None:
        if len(done) == written:
            raise Killed
        done.append(location)
        write_bytes(location, data)

    def killed(location: Location) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Location, "write_bytes", write_until_killed)
        patch.setattr(Location, "delete", killed)
        with pytest.raises(Killed):
            write(tmp_path, state(3))
    assert Location.delete is delete
    found = folder_of(tmp_path).newest()  # best weights first, then what names them, then deleting
    assert found is not None
    assert found.state.epoch == (3 if written == 2 else 2)
    assert_same(found.best, weights(100 + found.state.epoch))
    write(tmp_path, state(3), state(4))
    assert names(tmp_path, "checkpoint") == [state(3).file_name, state(4).file_name]
    assert names(tmp_path, "best") == [state(3).best_name, state(4).best_name]


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = folder_of(tmp_path / "file")
    folder.save(Checkpoint(state(1), [], [], []))
    with pytest.raises(StorageError):
        folder.save(Checkpoint(state(2), [], [], []))
