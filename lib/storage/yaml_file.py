"""YAML files with settings: recipes, and what a sweep is to try."""

import yaml

from lib.errors import SettingsError, one_line
from lib.storage.location import Location


def read_settings_file(uri: str, flag: str) -> dict[str, object]:
    """The keys and values of a YAML file.

    Args:
        uri: Where it is.
        flag: What names it on the command line, for messages.

    Raises:
        SettingsError: If there is no such file, or it does not hold `setting: value` lines.
    """
    if not Location(uri).is_file():
        raise SettingsError(f"{flag} {uri}: there is no such file")
    try:
        content = yaml.safe_load(Location(uri).read_bytes()) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{flag} {uri} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{flag} {uri} holds a {type(content).__name__}; expected `setting: value` lines")
    return content
