"""Two Ray Train workers end with the weights of one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tests.fakes.chain import Chain
from tests.fakes.jobs import run_job

SETTINGS = ("--image-size", 48, "--epochs", 3, "--batch-size", 8, "--seed", 5)


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def test_two_workers_end_with_the_weights_and_the_history_of_one(chain: Chain, tmp_path: Path) -> None:
    import keras

    # 26 training images in batches of 8: neither batches nor workers share them evenly.
    for workers in (1, 2):
        flags = ("--dataset", chain.output / "dataset", "--output", tmp_path / str(workers), "--num-workers", workers)
        result = run_job("train", *flags, *SETTINGS)
        assert (result.summary["world_size"], result.summary["images"]) == (workers, 26)
        assert json.loads((tmp_path / str(workers) / "model.json").read_text())["world_size"] == workers
    one, two = (keras.saving.load_model(tmp_path / name / "model.keras").get_weights() for name in ("1", "2"))
    differences = [relative_difference(b, a) for a, b in zip(one, two, strict=True)]
    assert max(differences) < 1e-3
    histories = [pd.read_parquet(tmp_path / name / "history.parquet") for name in ("1", "2")]
    assert [len(history) for history in histories] == [3, 3]
    for column in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        np.testing.assert_allclose(histories[1][column], histories[0][column], rtol=1e-3, err_msg=column)
