"""Two Ray Train workers end with the weights of one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tests.fakes.chain import SETTINGS, Chain
from tests.fakes.jobs import run_job


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def test_two_workers_end_with_the_weights_and_the_history_of_one(chain: Chain, tmp_path: Path) -> None:
    import keras

    # 26 training images in batches of 8: neither batches nor workers share them evenly.
    flags = ("--dataset", chain.output / "dataset", "--output", tmp_path, "--num-workers", 2, *SETTINGS)
    result = run_job("train", *flags)
    assert (result.summary["world_size"], result.summary["images"]) == (2, 26)
    assert json.loads((tmp_path / "model.json").read_text())["world_size"] == 2
    one, two = chain.output / "models" / "cnn", tmp_path
    weights = [keras.saving.load_model(folder / "model.keras").get_weights() for folder in (one, two)]
    differences = [relative_difference(b, a) for a, b in zip(*weights, strict=True)]
    assert max(differences) < 1e-5, differences  # 2e-7 where this was written
    histories = [pd.read_parquet(folder / "history.parquet") for folder in (one, two)]
    for column in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        np.testing.assert_allclose(histories[1][column], histories[0][column], rtol=1e-3, atol=1e-6, err_msg=column)
