"""Predict TIFFs that have no label.

    python -m jobs.predict --model-dir OUT/models/cnn --source gs://lab/new-slides --output OUT/predictions

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config import PredictConfig
from lib.evaluation.predict import predict_images
from lib.models.folder import read_model_record
from lib.runs import ray_session, run_job
from lib.storage.filesystem import Location
from lib.summaries import Summary, accounting_summary


def main(config: PredictConfig) -> Summary:
    """Predict every TIFF below the source folder and account for each of them."""
    read_model_record(Location(config.model_dir))
    with ray_session(config):
        return accounting_summary(predict_images(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, PredictConfig))
