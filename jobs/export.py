"""Write a trained model, its preprocessing included, in a format that other programs run.

    python -m jobs.export --model-dir OUT/models/cnn --output OUT/exports/cnn --format onnx

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.prediction import ExportConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, export_summary


def main(config: ExportConfig) -> Summary:
    """Export a model, and compare the exported one with it."""
    from lib.models.export.export import export_model

    return export_summary(export_model(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, ExportConfig))
