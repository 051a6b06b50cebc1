"""What a fake Google Drive holds: items, the query language of files.list, and the `fields` parameter."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
DOCUMENT = "application/vnd.google-apps.document"
ROOT = "0AMyDriveRoot000000"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Record:
    """One item of any kind."""

    id: str
    name: str
    mime_type: str
    parent: str | None
    created: str
    drive_id: str | None = None
    content: bytes | None = None
    target: str | None = None
    trashed: bool = False
    shared: bool = True
    abusive: bool = False
    read_only: bool = False
    stated_md5: str | None = None
    revisions: int = field(default=1)


class Model:
    """Every item, by id."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.drives: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self.add(Record(ROOT, "My Drive", FOLDER, None, self.now()))

    def new_id(self) -> str:
        return f"1FakeDriveId{next(self._numbers):016d}_-x"

    def now(self) -> str:
        return (EPOCH + timedelta(seconds=len(self.records))).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def add(self, record: Record) -> Record:
        self.records[record.id] = record
        return record

    def visible(self, file_id: str, *, all_drives: bool) -> Record | None:
        record = self.records.get(ROOT if file_id == "root" else file_id)
        if record is None or not record.shared or (record.drive_id and not all_drives):
            return None
        return record

    def is_trashed(self, record: Record) -> bool:
        above = self.records.get(record.parent) if record.parent else None
        return record.trashed or (above is not None and self.is_trashed(above))

    def children(self, parent_id: str, name: str | None = None) -> Iterator[Record]:
        for record in self.records.values():
            if record.parent == parent_id and not record.trashed and (name is None or record.name == name):
                yield record

    def described(self, record: Record) -> dict[str, Any]:
        """The item as the API's JSON with every field."""
        content = {
            "kind": "drive#file",
            "id": record.id,
            "name": record.name,
            "mimeType": record.mime_type,
            "createdTime": record.created,
            "trashed": self.is_trashed(record),
            "capabilities": {"canAddChildren": not record.read_only, "canEdit": not record.read_only},
        }
        if record.parent:
            content["parents"] = [record.parent]
        if record.drive_id:
            content["driveId"] = record.drive_id
        if record.target:
            content["shortcutDetails"] = {"targetId": record.target, "targetMimeType": "application/octet-stream"}
        if record.content is not None:
            content["size"] = str(len(record.content))
            content["md5Checksum"] = record.stated_md5 or hashlib.md5(record.content).hexdigest()
        return content


Condition = Callable[[Record], bool]
TOKEN = re.compile(r"\s*('(?:\\.|[^'\\])*'|\(|\)|!?=|[A-Za-z]+)")


def parse_query(query: str, model: Model) -> tuple[Condition, set[str]]:
    """The condition of a `q` parameter, and the ids that it names as parents.

    Raises:
        ValueError: If it is not in the part of the language that is known here.
    """
    tokens, position = [], 0
    while position < len(query.rstrip()):
        match = TOKEN.match(query, position)
        if match is None:
            raise ValueError(f"Invalid Value: {query[position:]}")
        tokens.append(match.group(1))
        position = match.end()
    parser = _Parser(tokens, model)
    condition = parser.either()
    if parser.rest:
        raise ValueError(f"Invalid Value: {parser.rest}")
    return condition, parser.parents


class _Parser:
    def __init__(self, tokens: list[str], model: Model) -> None:
        self.rest = tokens
        self.parents: set[str] = set()
        self._model = model

    def either(self) -> Condition:
        conditions = [self._both()]
        while self.rest and self.rest[0] == "or":
            self.rest.pop(0)
            conditions.append(self._both())
        return lambda record: any(condition(record) for condition in conditions)

    def _both(self) -> Condition:
        conditions = [self._one()]
        while self.rest and self.rest[0] == "and":
            self.rest.pop(0)
            conditions.append(self._one())
        return lambda record: all(condition(record) for condition in conditions)

    def _one(self) -> Condition:
        first = self.rest.pop(0)
        if first == "(":
            condition = self.either()
            if self.rest.pop(0) != ")":
                raise ValueError("Invalid Value: parenthesis")
            return condition
        operator, second = self.rest.pop(0), self.rest.pop(0)
        if (operator, second) == ("in", "parents"):
            parent = _text(first)
            self.parents.add(parent)
            return lambda record: record.parent == parent
        if (first, operator) == ("trashed", "="):
            return lambda record: self._model.is_trashed(record) == (second == "true")
        if (first, operator) == ("name", "="):
            name = _text(second).lower()  # Drive compares names without regard to case
            return lambda record: record.name.lower() == name
        raise ValueError(f"Invalid Value: {first} {operator} {second}")


def _text(token: str) -> str:
    if not token.startswith("'"):
        raise ValueError(f"Invalid Value: {token}")
    return re.sub(r"\\(.)", r"\1", token[1:-1])


def project(content: dict[str, Any], fields: str) -> dict[str, Any]:
    """Only what the `fields` parameter asks for, as `a,b(c,d)`."""
    wanted, rest = _parse_fields(fields)
    if rest:
        raise ValueError(f"Invalid field selection {rest}")
    return _projected(content, wanted)


def _parse_fields(text: str) -> tuple[dict[str, Any], str]:
    wanted: dict[str, Any] = {}
    while match := re.match(r"([A-Za-z0-9]+)", text):
        name, text = match.group(1), text[match.end() :]
        wanted[name] = None
        if text.startswith("("):
            wanted[name], text = _parse_fields(text[1:])
            if not text.startswith(")"):
                raise ValueError("Invalid field selection")
            text = text[1:]
        if not text.startswith(","):
            break
        text = text[1:]
    return wanted, text


def _projected(content: Any, wanted: dict[str, Any] | None) -> Any:
    if wanted is None:
        return content
    if isinstance(content, list):
        return [_projected(item, wanted) for item in content]
    return {name: _projected(content[name], inner) for name, inner in wanted.items() if name in content}
