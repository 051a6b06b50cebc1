"""A SavedModel in a `.tar.gz`, the form in which TF Hub and Kaggle hand them out; its names are not trusted."""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lib.errors import SettingsError, one_line
from lib.models.spec import SAVED_MODEL_FILE, TF1_FORMAT, TF1_HUB_FILE, ModelSpec
from lib.models.weights import given_weights

LARGEST_BYTES = 32 << 30
MOST_FILES = 10_000


def check_archive(spec: ModelSpec) -> None:
    """Have the archive of a SPEC on this machine, and refuse one that is no SavedModel.

    Raises:
        SettingsError: If it is none.
        TissueError: If it is not the file that the SPEC's `sha256` names.
        StorageError: If it cannot be read or downloaded.
    """
    with given_weights(spec) as archive:
        try:
            with _opened(archive) as tar:
                _saved_model_in(tar)
        except ValueError as error:
            raise SettingsError(f"model {spec.text!r}: {error}") from error


def unpack_saved_model(archive: Path, folder: Path) -> None:
    """Write the files of a SavedModel into a folder, from wherever in the archive they are.

    Raises:
        ValueError: If the archive cannot be read, is larger than it may be, has a file that would be written anywhere
            else, or holds not exactly one SavedModel.
    """
    with _opened(archive) as tar:
        for path, member in _saved_model_in(tar).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is None:
                raise ValueError(f"it holds {member.name}, which is no file")
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"it is no .tar.gz, or a damaged one: {one_line(error)[:200]}") from error


def _saved_model_in(tar: tarfile.TarFile) -> dict[PurePosixPath, tarfile.TarInfo]:
    """The files of the SavedModel, by their path below the folder that `saved_model.pb` is in."""
    files = dict(_checked_files(tar))
    tops = [path.parent for path in files if path.name == SAVED_MODEL_FILE]
    if len(tops) != 1:
        raise ValueError(f"the archive has {len(tops)} files {SAVED_MODEL_FILE}; expected one SavedModel")
    inside = {path.relative_to(tops[0]): member for path, member in files.items() if path.is_relative_to(tops[0])}
    if PurePosixPath(TF1_HUB_FILE) in inside:
        raise ValueError(f"it is {TF1_FORMAT}")
    return inside


def _checked_files(tar: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
    """The files of an archive; its bounds are checked before what follows in it is unpacked."""
    size_bytes = 0
    for number, member in enumerate(tar):
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"the archive has a file outside its folder, {member.name!r}; it is not used")
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"the archive has {member.name!r}, which is a link or device; it is not used")
        size_bytes += member.size
        if size_bytes > LARGEST_BYTES or number >= MOST_FILES:
            raise ValueError(f"the archive has more than {LARGEST_BYTES} bytes or {MOST_FILES} files; it is not used")
        if member.isfile():
            yield path, member
