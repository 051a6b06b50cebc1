"""Write a trained model, its preprocessing included, in a format that other programs run.

    python -m jobs.export --model-dir OUT/models/cnn --output OUT/exports/cnn --format onnx

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.prediction import ExportConfig
from lib.folders.export_folder import ExportRecord
from lib.models.export.export import export_model
from lib.runs.job import run_job
from lib.runs.summaries import Summary


def main(config: ExportConfig) -> Summary:
    """Export a model, and compare the exported one with it."""
    return _summary(export_model(config), config.output)


def _summary(record: ExportRecord, output: str) -> Summary:
    """From `export.json`."""
    return {
        "format": record.format,
        "quantize": record.quantize,
        "size_bytes": record.size_bytes,
        "largest_difference": record.agreement.largest_difference,
        "equal_top_1": record.agreement.equal_top_1,
        "seconds": record.seconds,
        "output": output,
    }


if __name__ == "__main__":
    sys.exit(run_job(main, ExportConfig))
