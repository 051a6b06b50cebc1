"""Report the state of any run: what below a folder is done, running, stopped or failed, from its files alone.

    python -m jobs.status --output gs://lab/results

It needs no cluster, so it also works when the cluster is gone. To resume a run that was stopped, run its command again.
"""

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from lib.config.chain import StatusConfig
from lib.runs.job import run_job
from lib.runs.summaries import Summary

if TYPE_CHECKING:
    from rich.table import Table

    from lib.runs.status import FolderStatus, State

COLOURS: "dict[State, str]" = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "yellow",
    "waiting": "dim",
}


def main(config: StatusConfig) -> Summary:
    """Show a table of all output folders."""
    from rich.console import Console

    from lib.runs.status import read_status
    from lib.storage.location import Location

    folders = read_status(Location(config.output))
    Console(stderr=True).print(_table(folders))
    counts = Counter(folder.state for folder in folders)
    return {
        **{state: counts[state] for state in COLOURS},
        "folders": [asdict(folder) for folder in folders],
        "output": config.output,
    }


def _table(folders: "list[FolderStatus]") -> "Table":
    from rich.table import Table

    table = Table("folder", "job", "state", "", box=None, header_style="bold", pad_edge=False)
    for folder in folders:
        table.add_row(folder.folder, folder.job, f"[{COLOURS[folder.state]}]{folder.state}", folder.detail)
    return table


if __name__ == "__main__":
    sys.exit(run_job(main, StatusConfig))
