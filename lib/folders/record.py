"""What all JSON files of output folders have in common: their keys are known, and a newer version's are refused.

A key that came later has a default, for files that were written before; a key that was not given is not written.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from lib.errors import SettingsError, StorageError
from lib.runtime.package import VERSION, command
from lib.storage.location import Location

PACKAGE = "tissue-training"
"""Under this name, `versions` states the version of this library."""
COMPLETION_KEYS = ("marker", "settings", "inputs", "versions", "completed_at")


class Record(BaseModel):
    """A JSON object: immutable, and without any key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")

    @model_serializer(mode="wrap")
    def _given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {key: value for key, value in serialize(self).items() if key in self.model_fields_set}

    def as_json(self) -> dict[str, JsonValue]:
        """The keys that were given, with JSON values."""
        return self.model_dump(mode="json")


class StoredRecord(Record):
    """The content of a JSON file.

    Attributes:
        FILE: Its name in its folder.
    """

    FILE: ClassVar[str]

    def write(self, folder: Location) -> None:
        """Write the file, in one step.

        Raises:
            StorageError: If it cannot be written.
        """
        (folder / self.FILE).write_json(self.as_json())

    @classmethod
    def read(cls, folder: Location) -> Self:
        """The file of a folder.

        Raises:
            StorageError: If it cannot be read, lacks a key or has a value of another kind.
            SettingsError: If it has a key that only a newer version knows.
        """
        file = folder / cls.FILE
        return cls.parsed(file, file.read_json())

    @classmethod
    def parsed(cls, file: Location, content: Mapping[str, JsonValue]) -> Self:
        """What a file holds; raises as `read`."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise _refusal(file, content, error) from error

    @classmethod
    def read_if_there(cls, folder: Location) -> Self | None:
        """As `read`; None if there is no such file."""
        return cls.read(folder) if (folder / cls.FILE).exists() else None


class CompletionRecord(StoredRecord):
    """The file that makes an output folder complete. `OutputFolder.complete` fills in what all of them have.

    Attributes:
        JOB: What writes it, as `jobs.status` calls it.
        MADE_BY: The module of `jobs` to run for it, where that is another.
        PARTS: The folder whose files tell how far the work is, if there is one.
    """

    JOB: ClassVar[str]
    MADE_BY: ClassVar[str] = ""
    PARTS: ClassVar[str] = ""

    marker: str = ""
    """Its own name."""
    settings: Mapping[str, JsonValue] = Field(default_factory=dict)
    """What the content depends on."""
    inputs: Mapping[str, JsonValue] = Field(default_factory=dict)
    """Hashes of what the content is made from."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the packages that the content depends on."""
    completed_at: str = ""
    """UTC, ISO 8601, to the second."""

    @classmethod
    def command(cls) -> str:
        """The job that makes such a folder."""
        return command(cls.MADE_BY or cls.JOB)

    def as_json(self) -> dict[str, JsonValue]:
        """What the folder holds first, then what all completion files have."""
        content = super().as_json()
        return {key: content[key] for key in sorted(content, key=COMPLETION_KEYS.__contains__)}


class Completion(CompletionRecord, extra="ignore"):
    """What all completion files have, whatever else they say."""

    @classmethod
    def of(cls, kind: type[CompletionRecord], folder: Location) -> "Completion | None":
        """What the completion file of a folder says; None if there is none."""
        file = folder / kind.FILE
        return cls.model_validate(file.read_json()) if file.exists() else None


def _refusal(file: Location, content: Mapping[str, JsonValue], error: ValidationError) -> Exception:
    """One line for the first thing that is wrong; an unknown key matters most, since it explains the others."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    key = ".".join(map(str, problems[0]["loc"]))
    versions = content.get("versions")
    writer = versions.get(PACKAGE) if isinstance(versions, dict) else None
    wrote = f"{PACKAGE} {writer}" if writer else f"a version of {PACKAGE} that it does not state"
    if problems[0]["type"] == "extra_forbidden":
        return SettingsError(
            f"{file.uri} has the key {key!r}, which {PACKAGE} {VERSION} does not know; it was written by {wrote}: "
            "use that version or a newer one, or make the folder again with this one"
        )
    return StorageError(
        f"{file.uri}: {key}: {problems[0]['msg']}; it was written by {wrote}: make the folder again with this one, "
        f"{PACKAGE} {VERSION}"
    )
