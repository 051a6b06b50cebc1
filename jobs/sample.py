"""Make the embedded sample: 12 classes of TIFFs that look like stained tissue, drawn by a seeded program.

    python -m jobs.sample --output demo/sample

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.conversion import SampleConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, sample_summary


def main(config: SampleConfig) -> Summary:
    """Draw the sample."""
    from lib.sample.tiffs import write_sample

    return sample_summary(write_sample(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, SampleConfig))
