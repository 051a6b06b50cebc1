"""Train one model on a dataset folder, or on TIFFs streamed from storage.

    python -m jobs.train --dataset OUT/dataset --model vgg16 --epochs 10 --output OUT/models/vgg16

With `--sweep sweep.yaml` it searches settings, and writes the model of the best trial.

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys
from typing import TYPE_CHECKING

from lib.config.fitting import TrainConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, training_summary

if TYPE_CHECKING:
    from lib.folders.model import ModelRecord


def main(config: TrainConfig) -> Summary:
    """Train a model and write its folder."""
    return training_summary(_train(config), config.output)


def _train(config: TrainConfig) -> "ModelRecord":
    if config.sweep is None:
        from lib.training.trainer import train_model

        return train_model(config)
    from lib.training.search.tune import search_model  # Ray Tune takes a second to import

    return search_model(config)


if __name__ == "__main__":
    sys.exit(run_job(main, TrainConfig))
