"""Convert TIFF images in storage to a dataset folder of small images in Parquet shards.

    python -m jobs.convert --source gs://lab/organs --output gs://lab/results/dataset

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.conversion import ConvertConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, accounting_summary


def main(config: ConvertConfig) -> Summary:
    """Convert every image under the source folder and account for each of them."""
    from lib.runs.convert_and_tell import convert_and_tell

    return accounting_summary(convert_and_tell(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, ConvertConfig))
