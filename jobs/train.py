"""Train one model on a dataset folder, or on TIFFs streamed from storage.

    python -m jobs.train --dataset OUT/dataset --model vgg16 --epochs 10 --output OUT/models/vgg16

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config import TrainConfig
from lib.runs import run_job
from lib.summaries import Summary, training_summary
from lib.training.trainer import train_model


def main(config: TrainConfig) -> Summary:
    """Train a model and write its folder."""
    return training_summary(train_model(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, TrainConfig))
