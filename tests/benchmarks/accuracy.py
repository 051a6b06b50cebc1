"""Prints the test accuracy of models over seeds, as in the README: every setting is one of `jobs.pipeline`.

    python -m tests.benchmarks.accuracy --seeds 3 --source organs --output runs --models cnn cnn_bn --image-size 96

Each seed is a pipeline of its own in `runs/seed-<seed>`, with its own weights, validation images and order; a second
run reads what is complete. Images for testing are scored once a model, and nothing is chosen by them.
"""

import argparse
from functools import partial
from pathlib import Path
from statistics import mean

from lib.evaluation.checks.colour_baseline import BASELINE_NAME
from lib.folders.checks import CHECKS, ChecksRecord
from lib.folders.evaluation import EvaluationRecord
from lib.folders.pipeline_folder import EVALUATIONS
from lib.storage.location import Location
from tests.benchmarks.fit import run_job
from tests.benchmarks.timing import print_row, seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.accuracy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pipelines")
    options, settings = parser.parse_known_args()
    folders = [options.output / f"seed-{seed}" for seed in range(options.seeds)]
    took = [seconds(partial(_run, settings, seed, folder)) for seed, folder in enumerate(folders)]
    print_row("model", f"test accuracy, {options.seeds} seeds", "least to most", "images")
    print_row(*["---"] * 4)
    print_row(BASELINE_NAME, *_spread([_floor(folder) for folder in folders]))
    for name in sorted(path.name for path in (folders[0] / EVALUATIONS).iterdir()):
        print_row(name, *_spread([_score(folder, name) for folder in folders]))
    print_row("seconds a pipeline", f"{mean(took):.0f}", f"{min(took):.0f} to {max(took):.0f}", "")


def _run(settings: list[str], seed: int, folder: Path) -> None:
    run_job("pipeline", *settings, "--seed", seed, "--output", folder)


def _score(folder: Path, name: str) -> tuple[float, int]:
    record = EvaluationRecord.read(Location(str(folder / EVALUATIONS / name)))
    return record.metrics.accuracy, record.images


def _floor(folder: Path) -> tuple[float, int]:
    baseline = ChecksRecord.read(Location(str(folder / CHECKS))).baseline
    if baseline is None:
        raise SystemExit(f"{folder}: colours alone were not tried, since fewer than two classes have training images")
    return baseline.accuracy, baseline.images


def _spread(scores: list[tuple[float, int]]) -> tuple[str, str, str]:
    accuracies, images = zip(*scores, strict=True)
    return f"{mean(accuracies):.3f}", f"{min(accuracies):.3f} to {max(accuracies):.3f}", str(images[0])


if __name__ == "__main__":
    main()
