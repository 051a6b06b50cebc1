"""Two Ray Train workers solve the head that one solves, also where neither holds all features."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.fakes.chain import SETTINGS, Chain
from tests.fakes.jobs import job_here

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.mark.parametrize("more", [(), ("--head-memory-gib", 1e-5)], ids=["by_one_worker", "refined_by_all"])
def test_two_workers_solve_the_head_that_one_solves(chain: Chain, tmp_path: Path, more: tuple[object, ...]) -> None:
    import keras

    models, features = chain.output / "models", chain.output / "features"
    flags = ("--dataset", chain.output / "dataset", "--model", f"saved:path={models / 'cnn'}", "--features", features)
    for folder, workers in (("one", 1), ("two", 2)):
        job_here("train", *flags, "--output", tmp_path / folder, "--num-workers", workers, *more, *SETTINGS)
    one, two = (keras.saving.load_model(tmp_path / folder / "model.keras").get_weights() for folder in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        if more:
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
        else:
            np.testing.assert_array_equal(a, b)
    histories = [pd.read_parquet(tmp_path / folder / "history.parquet") for folder in ("one", "two")]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-3)
    records = [json.loads((tmp_path / folder / "model.json").read_text()) for folder in ("one", "two")]
    assert records[0]["metrics"]["penalty"] == pytest.approx(records[1]["metrics"]["penalty"])
    assert records[1]["world_size"] == 2
