"""Convert TIFFs, train every model, evaluate each on the test split, and write one report.

    python -m jobs.pipeline --source gs://lab/organs --output gs://lab/results --models cnn vgg16 inception_v3

With `--models auto` one model is chosen by training images, and only that is trained and tested. A second run with the
same output does only what is missing. Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.chain import PipelineConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, pipeline_summary


def main(config: PipelineConfig) -> Summary:
    """Go from a folder of TIFFs to a report."""
    from lib.runs.pipeline import run_pipeline

    return pipeline_summary(run_pipeline(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, PipelineConfig))
