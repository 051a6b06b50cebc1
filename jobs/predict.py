"""Predict TIFFs that have no label.

    python -m jobs.predict --model-dir OUT/models/cnn --source gs://lab/new-slides --output OUT/predictions

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.prediction import PredictConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, prediction_summary


def main(config: PredictConfig) -> Summary:
    """Predict every TIFF below the source folder and account for each of them."""
    from lib.evaluation.predict import predict_images

    return prediction_summary(predict_images(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, PredictConfig))
