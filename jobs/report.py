"""Write one offline HTML page about one or more evaluations.

    python -m jobs.report --evaluations OUT/evaluations/cnn OUT/evaluations/vgg16 --output OUT/report

Flags override `--config recipe.yaml`; `--help` lists every setting.
"""

import sys

from lib.config.chain import ReportConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary, report_summary


def main(config: ReportConfig) -> Summary:
    """Put models side by side."""
    from lib.report.page import write_report

    return report_summary(write_report(config), config.output)


if __name__ == "__main__":
    sys.exit(run_job(main, ReportConfig))
