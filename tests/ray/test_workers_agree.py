"""Any number of Ray Train workers ends with the weights of one, bit for bit, wherever the images are kept."""

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.dataset.sampler import LaneOrder
from tests.fakes.chain import SETTINGS, Chain
from tests.fakes.jobs import job_here
from tests.fakes.sources import write_source

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

AGREEING = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")


# 26 training images in batches of 8: neither batches nor workers share them evenly. Weights of two workers that keep
# the images in memory are compared with those of one in tests/faults/test_train_faults.py.
@pytest.mark.parametrize(
    ("world_size", "more"),
    [(2, ("--cache", "none")), (4, ())],
    ids=["two_streaming", "four_in_memory"],
)
def test_several_workers_end_with_the_weights_and_the_history_of_one(
    chain: Chain, tmp_path: Path, world_size: int, more: tuple[str, ...]
) -> None:
    import keras

    interrupt = signal.getsignal(signal.SIGINT)
    flags = ("--dataset", chain.output / "dataset", "--output", tmp_path, "--num-workers", world_size, *more)
    summary = job_here("train", *flags, *SETTINGS)
    assert signal.getsignal(signal.SIGINT) is interrupt  # Ctrl+C is the job's again
    assert (summary["world_size"], summary["images"]) == (world_size, 26)
    assert json.loads((tmp_path / "model.json").read_text())["world_size"] == world_size
    folders = [chain.output / "models" / "cnn", tmp_path]
    weights = [keras.saving.load_model(folder / "model.keras").get_weights() for folder in folders]
    assert weights[0][0].min() > 0.1  # the means of the channels
    for of_one, of_several in zip(*weights, strict=True):
        np.testing.assert_array_equal(of_several, of_one)
    one, several = (pd.read_parquet(folder / "history.parquet") for folder in folders)
    for column in AGREEING:
        np.testing.assert_array_equal(several[column], one[column], err_msg=column)
    records = [json.loads((folder / "model.json").read_text()) for folder in folders]
    for name in ("calibration", "reference"):
        assert records[1][name] == records[0][name]
    assert records[0]["calibration"]["temperature"] != 1
    references = [pd.read_parquet(folder / "reference.parquet") for folder in folders]
    assert references[0]["image_id"].tolist() == references[1]["image_id"].tolist()
    assert len(references[0]) == 26
    embeddings = [np.stack(reference["embedding"].to_numpy()) for reference in references]
    np.testing.assert_array_equal(*embeddings)


def test_workers_agree_on_batch_normalisation_and_with_every_setting_of_the_fit(chain: Chain, tmp_path: Path) -> None:
    import keras

    more = ("--optimizer", "adamw", "--mixup", 0.4, "--label-smoothing", 0.1, "--ema", 0.8, "--clip-norm", 0.5)
    flags = ("--dataset", chain.output / "dataset", "--model", "cnn_bn", *more, *SETTINGS)
    for workers in (1, 4):
        job_here("train", *flags, "--epochs", 2, "--output", tmp_path / str(workers), "--num-workers", workers)
    one, four = (keras.saving.load_model(tmp_path / str(workers) / "model.keras").get_weights() for workers in (1, 4))
    for of_one, of_four in zip(one, four, strict=True):
        np.testing.assert_array_equal(of_four, of_one)


def test_a_worker_without_any_image_takes_part_until_the_end(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 2, "lung": 2}, size=32)
    flags = ("--source", source, "--output", tmp_path / "model", "--image-size", 32, "--validation-fraction", 0.1)
    fit = ("--epochs", 2, "--batch-size", 5, "--num-workers", 2)
    summary = job_here("train", *flags, *fit)  # 2 images to train and 2 to validate
    assert (summary["world_size"], summary["images"]) == (2, 2)
    assert [len(LaneOrder(2, 5, rank, 2).positions) for rank in range(2)] == [0, 2]
    assert len(pd.read_parquet(tmp_path / "model" / "history.parquet")) == 2
