"""Predict one split of a dataset with a model, and measure how good the predictions are.

    python -m jobs.evaluate --model-dir OUT/models/cnn --dataset OUT/dataset --output OUT/evaluations/cnn

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.prediction import EvaluateConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, evaluation_summary


def main(config: EvaluateConfig) -> Summary:
    """Evaluate a model on a split."""
    from lib.evaluation.evaluate import evaluate_model

    return evaluation_summary(evaluate_model(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, EvaluateConfig))
