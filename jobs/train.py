"""Train one model on a dataset folder, or on TIFFs streamed from storage.

    python -m jobs.train --dataset OUT/dataset --model vgg16 --epochs 10 --output OUT/models/vgg16

With `--sweep sweep.yaml` it searches settings, and writes the model of the best trial.

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.fitting import TrainConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, training_summary


def main(config: TrainConfig) -> Summary:
    """Train a model and write its folder."""
    from lib.training.start import train

    return training_summary(train(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, TrainConfig))
