"""Paths for a storage in which names repeat, may hold any character, and mean nothing: only ids do.

Within a folder, the oldest file of a name is found under that name. Every other file of that name is found under
`stem (id).ext`, and so is a file whose name cannot stand in a path (it holds `/`), or looks like that form itself.
The oldest may be asked for by its id as well. So a path does not change when another copy is added, and means one file.
"""

import re
from collections.abc import Iterable

from pydantic import AliasPath, ConfigDict, Field
from pydantic.dataclasses import dataclass

GOOGLE_DOCUMENT, BROKEN_SHORTCUT, CYCLE = "google_document", "broken_shortcut", "shortcut_cycle"
UNREADABLE = {
    GOOGLE_DOCUMENT: "it is a Google document, which has no bytes; download it as a TIFF and upload that",
    BROKEN_SHORTCUT: "it is a shortcut to something that is gone, or not shared with this account",
    CYCLE: "it is a shortcut that leads back to where it stands",
}
"""Why an object of a listing cannot be read: the values of `unreadable`, each with what a message says."""
FOLDER_TYPE = "application/vnd.google-apps.folder"
SHORTCUT_TYPE = "application/vnd.google-apps.shortcut"
GOOGLE_TYPES = "application/vnd.google-apps."
SUFFIXED = re.compile(r"(?P<stem>.*) \((?P<id>[A-Za-z0-9_-]{16,})\)(?P<extension>\.[A-Za-z0-9]{1,10})?", re.DOTALL)
EXTENSION = re.compile(r"(?P<stem>.*)(?P<extension>\.[A-Za-z0-9]{1,10})", re.DOTALL)
UNFIT = re.compile(r"[/\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, config=ConfigDict(populate_by_name=True))
class Item:
    """A file, folder, shortcut or Google document, as the API describes it.

    Attributes:
        id: What Drive knows it by.
        name: As people see it; siblings may share it.
        mime_type: Tells folders, shortcuts and Google documents.
        size_bytes: 0 for what has no bytes.
        md5: Hexadecimal; None for what has no bytes.
        created: Time of creation, RFC 3339, so that text order is time order.
        parents: Ids of the folders it is in.
        drive_id: The shared drive it is in, None in someone's own.
        target_id: What a shortcut leads to.
        trashed: Whether it is in the bin.
        can_add_children: Whether this account may write into the folder; None if it was not asked for.
    """

    id: str
    name: str = ""
    mime_type: str = Field(default="", validation_alias="mimeType")
    size_bytes: int = Field(default=0, validation_alias="size")
    md5: str | None = Field(default=None, validation_alias="md5Checksum")
    created: str = Field(default="", validation_alias="createdTime")
    parents: tuple[str, ...] = ()
    drive_id: str | None = Field(default=None, validation_alias="driveId")
    target_id: str | None = Field(default=None, validation_alias=AliasPath("shortcutDetails", "targetId"))
    trashed: bool = False
    can_add_children: bool | None = Field(default=None, validation_alias=AliasPath("capabilities", "canAddChildren"))

    @property
    def is_folder(self) -> bool:
        """Whether it can hold other items."""
        return self.mime_type == FOLDER_TYPE

    @property
    def is_shortcut(self) -> bool:
        """Whether it leads to another item."""
        return self.mime_type == SHORTCUT_TYPE

    @property
    def is_google_document(self) -> bool:
        """Whether it has no bytes, since it exists only inside Google's editors."""
        return self.mime_type.startswith(GOOGLE_TYPES) and not self.is_folder and not self.is_shortcut


def id_in(part: str) -> str | None:
    """The id that a part of a path names, if it has the suffixed form."""
    match = SUFFIXED.fullmatch(part)
    return match["id"] if match else None


def suffixed(item: Item) -> str:
    """The part of a path that means this item whatever stands beside it."""
    name = UNFIT.sub("_", item.name)
    match = EXTENSION.fullmatch(name)
    stem, extension = (match["stem"], match["extension"]) if match else (name, "")
    return f"{stem} ({item.id}){extension}"


def needs_suffix(name: str) -> bool:
    """Whether a name can never stand for itself in a path."""
    return name in {"", ".", ".."} or UNFIT.search(name) is not None or id_in(name) is not None


def oldest(items: Iterable[Item]) -> Item | None:
    """The one among items of the same name that is found under that name."""
    return min(items, key=lambda item: (item.created, item.id), default=None)


def named(items: Iterable[Item]) -> dict[str, Item]:
    """The items of one folder by their part of a path, in the order of these parts."""
    by_name: dict[str, list[Item]] = {}
    for item in items:
        by_name.setdefault(item.name, []).append(item)
    parts = {}
    for name, same in by_name.items():
        plain = None if needs_suffix(name) else oldest(same)
        for item in same:
            parts[name if item is plain else suffixed(item)] = item
    return dict(sorted(parts.items()))
