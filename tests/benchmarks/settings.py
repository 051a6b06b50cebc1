"""Prints what each setting of a fit does, by training images alone: each is left out once, in the same folds.

    python -m tests.benchmarks.settings --dataset results/dataset --model cnn --epochs 30 --output settings

`convert` makes the dataset. No image for testing and none for validation is looked at.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from lib.config.fitting import TrainConfig
from lib.dataset.shard_source import ShardSource
from lib.evaluation.choice.left_out import left_out_probabilities
from lib.evaluation.choice.tried_images import TriedImages
from lib.models.probabilities import log_losses
from lib.runtime.ray_data import start_ray
from lib.storage.location import Location
from tests.benchmarks.timing import print_row

SETTINGS: dict[str, dict[str, Any]] = {
    "(as it is)": {},
    "--optimizer adamw": {"optimizer": "adamw"},
    "--schedule constant": {"schedule": "constant"},
    "--warmup-epochs 0": {"warmup_epochs": 0.0},
    "--label-smoothing 0.1": {"label_smoothing": 0.1},
    "--mixup 0.2": {"mixup": 0.2},
    "--ema 0.98": {"ema": 0.98},
    "--clip-norm 1": {"clip_norm": 1.0},
    "--augment none": {"augment": ("none",)},
}
MOST_IMAGES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.settings", description=__doc__)
    parser.add_argument("--dataset", required=True, help="folder that `convert` has made")
    parser.add_argument("--model", required=True, help="a network that is trained from scratch")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--output", type=Path, required=True, help="folder for the networks")
    options = parser.parse_args()
    source = ShardSource.open(Location(options.dataset))
    config = TrainConfig(
        dataset=options.dataset,
        output="-",
        model=options.model,
        epochs=options.epochs,
        image_size=source.image_size,
        precision="float32",
    )
    start_ray(config)
    tried = TriedImages.of(source, MOST_IMAGES, config.seed)
    judged = tried.judged
    print_row(f"{options.model}, {options.epochs} epochs", "left-out accuracy", "left-out log loss", "images")
    print_row(*["---"] * 4)
    for number, (name, changes) in enumerate(SETTINGS.items()):
        changed = config.part(TrainConfig, output=str(options.output / str(number)), **changes)
        probabilities = left_out_probabilities(tried, changed)[judged]
        labels = tried.labels[judged]
        accuracy = np.mean(probabilities.argmax(axis=1) == labels)
        print_row(name, f"{accuracy:.3f}", f"{log_losses(labels, probabilities).mean():.3f}", str(len(labels)))


if __name__ == "__main__":
    main()
