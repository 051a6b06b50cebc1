"""What all settings share: closed, immutable, with locations as URIs."""

import os
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, ValidationInfo, field_validator

LOCAL_SCHEME = "file://"
REMOTE_SCHEMES = ("gs", "gdrive", "s3")
READ_ONLY_SCHEMES = ("s3",)
SHARES = ("smb", "cifs", "nfs", "afp")
"""Schemes of what is mounted as a folder."""
WRITTEN_FORMS = "a local path, file://, gs://bucket/prefix or gdrive://<folder id>/path"
URI_FORMS = f"{WRITTEN_FORMS}; to read, s3://bucket/prefix too"
READ_ONLY = f"s3:// is read, but not written; expected {WRITTEN_FORMS}"


def expected_instead_of(scheme: str) -> str:
    """What to say of an address that is not served."""
    advice = "mount the share, and give the path of its folder; " if scheme.lower() in SHARES else ""
    return f"{advice}expected {URI_FORMS}"


def missing_client(scheme: str) -> str | None:
    """What to say if a package is missing here that addresses of this scheme need; None if there is none."""
    if scheme != "s3" or find_spec("s3fs") is not None:
        return None
    return f"s3:// needs s3fs (the extra `s3`), which is not installed: pip install s3fs=={version('fsspec')}"


def absolute_uri(uri: str) -> str:
    """A local path as an absolute one, since workers have their own working folder; other URIs as they are."""
    if not uri.strip():
        raise ValueError(f"empty; expected {URI_FORMS}")
    if uri.startswith(r"\\"):  # as Windows names a share
        raise ValueError(f"cannot open {uri}; {expected_instead_of('smb')}")
    if uri.startswith(LOCAL_SCHEME):
        uri = uri.removeprefix(LOCAL_SCHEME)
    scheme, separator, rest = uri.rpartition("://")
    if not rest.strip("/ ") and (separator or not uri):
        raise ValueError(f"nothing follows the scheme; expected {URI_FORMS}")
    if separator and scheme not in REMOTE_SCHEMES:
        raise ValueError(f"cannot open {scheme}://; {expected_instead_of(scheme)}")
    if (missing := missing_client(scheme)) is not None:
        raise ValueError(missing)
    if separator:
        return uri.rstrip("/")
    return os.path.normpath(Path(uri).expanduser().absolute())


def written_uri(uri: str) -> str:
    """A URI of a place that is written to."""
    if uri.partition("://")[0] in READ_ONLY_SCHEMES:
        raise ValueError(READ_ONLY)
    return uri


StorageUri = Annotated[str, AfterValidator(absolute_uri)]
"""A local path, `file://...`, `gs://bucket/prefix`, `gdrive://<folder id>/path` or `s3://bucket/prefix`."""
OutputUri = Annotated[StorageUri, AfterValidator(written_uri)]
"""The same, but for `s3://`, which is not written."""


@dataclass(frozen=True)
class NotIdentity:
    """Marks a setting that does not change the result, so that a run goes on with another value of it."""


NOT_IDENTITY = NotIdentity()
"""The mark, in the annotation of a field. A field without it is part of the identity of a run."""


class Group(StrEnum):
    """The headings of `--help`, in their order.

    Settings say theirs where they stand: a class by `GROUP`, and a field whose heading is another in its annotation.
    """

    FIRST = "What nearly every run sets"
    IMAGES = "Images, labels and splits"
    MODEL = "Choosing and trusting models"
    FIT = "Training"
    HEAD = "Frozen networks: head, features, fine-tuning"
    PREDICTION = "Predicting"
    MEASURES = "Measures, maps and checks"
    ESTIMATE = "Estimate of time and price"
    RUNNING = "Memory, checkpoints and restarts"
    MESSAGES = "Messages"
    TIFF = "Unusual TIFFs"
    CLUSTER = "Clusters: what Ray reserves"


SettingsT = TypeVar("SettingsT", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    GROUP: ClassVar[Group]
    """Under which heading `--help` lists the fields that a class adds."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        numbers = {int, float, int | None, float | None}
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in numbers:
            raise ValueError("expected a number")
        return value

    @classmethod
    def identity_fields(cls) -> set[str]:
        """The settings that tell one run from another: all but those marked `NOT_IDENTITY`."""
        return {name for name, field in cls.model_fields.items() if NOT_IDENTITY not in field.metadata}

    @classmethod
    def group_of(cls, name: str) -> Group:
        """Under which heading `--help` lists a setting."""
        stated = [mark for mark in cls.model_fields[name].metadata if isinstance(mark, Group)]
        return stated[0] if stated else cls.owner_of(name).GROUP

    @classmethod
    def owner_of(cls, name: str) -> "type[Settings]":
        """The class that declares a setting."""
        return next(it for it in cls.__mro__ if issubclass(it, Settings) and name in get_annotations(it))

    def identity(self) -> dict[str, JsonValue]:
        """What makes this run the same as another, as JSON values: an output folder takes no run with another one."""
        return self.model_dump(mode="json", include=self.identity_fields())

    def part(self, config_type: type[SettingsT], **changes: object) -> SettingsT:
        """Other settings, taken from the fields that both have, then from `changes`."""
        shared = {name: getattr(self, name) for name in config_type.model_fields if hasattr(self, name)}
        return config_type.model_validate(shared | changes)


class TrustConfig(Settings):
    """What a model of others may bring with it."""

    GROUP = Group.MODEL

    trust_saved_model: Annotated[bool, NOT_IDENTITY] = False
    """Open a model that was made with `hub:`. It holds a SavedModel, a program that may read and write files: only for
    models whose makers you trust."""


class JobConfig(Settings):
    """What every job understands."""

    GROUP = Group.MESSAGES

    verbose: Annotated[bool, NOT_IDENTITY] = False
    """Show the messages of Ray and TensorFlow too."""
    log_format: Annotated[Literal["text", "json"], NOT_IDENTITY] = "text"
    """How lines on stderr are written: for people, or one JSON object a line, as Google Cloud Logging reads them."""
