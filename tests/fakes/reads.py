"""How often files are opened for reading, by a job and by every process that it starts."""

import os
from collections import Counter
from pathlib import Path

HOOK = """
import os, sys

def note(event, arguments):
    if event == "open" and arguments[1] == "r" and str(arguments[0]).startswith(os.environ["NOTE_READS_BELOW"]):
        with open(os.environ["NOTE_READS_IN"], "a") as log:
            log.write(f"{arguments[0]}\\n")

sys.addaudithook(note)
"""


def noting_reads(folder: Path, below: Path) -> dict[str, str]:
    """Variables that have each Python process note in an empty folder which files it opens below another folder."""
    (folder / "sitecustomize.py").write_text(HOOK)
    return {"PYTHONPATH": str(folder), "NOTE_READS_BELOW": f"{below}{os.sep}", "NOTE_READS_IN": str(folder / "reads")}


def noted_reads(folder: Path) -> "Counter[str]":
    """How often each file was opened, by its name."""
    log = folder / "reads"
    return Counter(Path(line).name for line in log.read_text().splitlines()) if log.exists() else Counter()
