"""Check whether a pipeline with these settings can work, and estimate its time and cost, before any GPU is paid for.

    python -m jobs.doctor --source gs://lab/organs --output gs://lab/results --models cnn vgg16 --use-gpu

It takes the settings of `jobs.pipeline`. The exit code is 1 if something would stop the run.
"""

import sys
from dataclasses import asdict

from rich.console import Console

from lib.config.chain import DoctorConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary

LOOKS = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "blocks": "[red]blocks [/]"}


def main(config: DoctorConfig) -> Summary:
    """Print one line per check, as soon as it has its answer."""
    from lib.runs.doctor.diagnose import Diagnosis

    console, diagnosis = Console(stderr=True, soft_wrap=True, highlight=False), Diagnosis(config)
    findings = []
    for finding in diagnosis.findings():
        console.print(f"{LOOKS[finding.state]} {finding.check:<10}", end=" ")
        console.print(finding.detail, markup=False)
        findings.append(finding)
    blocking = [finding.check for finding in findings if finding.state == "blocks"]
    return {
        "exit_code": 1 if blocking else 0,
        "blocks": blocking,
        "findings": [asdict(finding) for finding in findings],
        "speeds": {name: asdict(speed) for name, speed in diagnosis.speeds.items()},
        "estimate": asdict(diagnosis.estimate) if diagnosis.estimate else None,
    }


if __name__ == "__main__":
    sys.exit(run_job(main, DoctorConfig))
