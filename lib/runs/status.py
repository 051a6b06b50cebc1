"""The state of any run, from the files below its output folder alone.

Ray's own status of a job is lost with its cluster, and is sometimes wrong before (ray#65608). The files of an
`OutputFolder` tell it: the completion file, the writer's lease, and the failure noted in `run.json`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from lib.errors import SettingsError
from lib.folders.lease import WriterRecord
from lib.folders.markers import JOBS, KINDS
from lib.folders.output import RunRecord
from lib.folders.record import Completion
from lib.storage.location import Location

OURS = {*(kind.FILE for kind in KINDS), RunRecord.FILE, WriterRecord.FILE}
PARTS = {kind.PARTS for kind in KINDS if kind.PARTS}
State = Literal["done", "running", "failed", "stopped", "waiting"]


@dataclass(frozen=True)
class FolderStatus:
    """One output folder.

    Attributes:
        folder: Its path below the folder that was asked for; `.` for that itself.
        job: What writes it; None where a run was ended before it said so.
        state: `stopped` if nobody writes it any more and no failure was noted, as after a kill: the same command goes
            on with it. `waiting` if a pipeline has planned it.
        detail: When it was completed, why it failed, who writes it, or how far it is.
    """

    folder: str
    job: str | None
    state: State
    detail: str


@dataclass
class _Files:
    """What a folder holds: its files of ours, and how many parts there are in each of its folders."""

    ours: set[str] = field(default_factory=set)
    parts: dict[str, int] = field(default_factory=dict)


def read_status(output: Location) -> list[FolderStatus]:
    """The state of every output folder at or below a folder, in the order of their completion or else their names.

    Raises:
        SettingsError: If nothing of ours is there.
        StorageError: If it cannot be listed or read.
    """
    folders = _output_folders(file.path for file in output.scan_files())
    if not folders:
        raise SettingsError(f"no run found: --output {output.uri} holds no output of a job, complete or begun")
    found = {name: _status(output / name if name != "." else output, name, files) for name, files in folders.items()}
    for name, files in folders.items():
        if RunRecord.FILE in files.ours:
            found |= _planned(output / name if name != "." else output, name, found)
    return [found[name] for name in sorted(found)]


def _output_folders(paths: Iterable[str]) -> dict[str, _Files]:
    folders: dict[str, _Files] = {}
    above: dict[str, dict[str, int]] = {}
    for path in map(PurePosixPath, paths):
        if path.name in OURS:
            folders.setdefault(str(path.parent), _Files()).ours.add(path.name)
        elif path.parent.name in PARTS:
            parts = above.setdefault(str(path.parent.parent), {})
            parts[path.parent.name] = parts.get(path.parent.name, 0) + 1
    for name, files in folders.items():
        files.parts = above.get(name, {})
    return folders


def _status(folder: Location, name: str, files: _Files) -> FolderStatus:
    writer = WriterRecord.read(folder) if WriterRecord.FILE in files.ours else None
    run = RunRecord.read(folder) if RunRecord.FILE in files.ours else None
    done = next((kind for kind in KINDS if kind.FILE in files.ours), None)
    kind = done or next((kind for kind in KINDS if run and run.marker == kind.FILE), None)
    job = kind.JOB if kind else None
    if writer and writer.is_writing:
        return FolderStatus(name, job, "running", "; ".join(filter(None, [f"by {writer}", _so_far(job, files)])))
    if done and (completion := Completion.of(done, folder)):
        return FolderStatus(name, job, "done", completion.completed_at)
    if run and run.failed:
        return FolderStatus(name, job, "failed", f"{run.failed.error} ({run.failed.at})")
    return FolderStatus(name, job, "stopped", _so_far(job, files))


def _so_far(job: str | None, files: _Files) -> str:
    where = JOBS[job].PARTS if job else ""
    count = files.parts.get(where, 0)
    return f"{count} files in {where}/ so far" if count else ""


def _planned(folder: Location, name: str, found: dict[str, FolderStatus]) -> dict[str, FolderStatus]:
    """The stages that a pipeline has planned and not begun."""
    stages = RunRecord.read(folder).stages
    below = {str(PurePosixPath(name) / stage): job for stage, job in stages.items()}
    return {stage: FolderStatus(stage, job, "waiting", "") for stage, job in below.items() if stage not in found}
