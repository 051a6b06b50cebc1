"""What all settings share: closed, immutable, with locations as URIs."""

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

LOCAL_SCHEME = "file://"
REMOTE_SCHEMES = ("gs", "gdrive")
URI_FORMS = "a local path, file://, gs://bucket/prefix or gdrive://<folder id>/path"


def absolute_uri(uri: str) -> str:
    """A local path as an absolute one, since workers have their own working folder; other URIs as they are."""
    if not uri.strip():
        raise ValueError(f"empty; expected {URI_FORMS}")
    if uri.startswith(LOCAL_SCHEME):
        uri = uri.removeprefix(LOCAL_SCHEME)
    scheme, separator, rest = uri.rpartition("://")
    if not rest.strip("/ ") and (separator or not uri):
        raise ValueError(f"nothing follows the scheme; expected {URI_FORMS}")
    if separator and scheme not in REMOTE_SCHEMES:
        raise ValueError(f"cannot open {scheme}://; expected {URI_FORMS}")
    if separator:
        return uri.rstrip("/")
    return os.path.normpath(Path(uri).expanduser().absolute())


StorageUri = Annotated[str, AfterValidator(absolute_uri)]
"""A local path, `file://...`, `gs://bucket/prefix` or `gdrive://<folder id>/path`."""


SettingsT = TypeVar("SettingsT", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        numbers = {int, float, int | None, float | None}
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in numbers:
            raise ValueError("expected a number")
        return value

    def part(self, config_type: type[SettingsT], **changes: object) -> SettingsT:
        """Other settings, taken from the fields that both have, then from `changes`."""
        shared = {name: getattr(self, name) for name in config_type.model_fields if hasattr(self, name)}
        return config_type.model_validate(shared | changes)


class JobConfig(Settings):
    """What every job understands."""

    verbose: bool = False
    """Show the messages of Ray and TensorFlow too."""
    log_format: Literal["text", "json"] = "text"
    """How lines on stderr are written: for people, or one JSON object a line, as Google Cloud Logging reads them."""
