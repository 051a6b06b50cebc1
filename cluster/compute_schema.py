"""Compares a machine's description with Google's own schema of it, without a network.

Ray's `validate_config` does not look below `node_config`: a misspelled field there shows when a machine is started.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}


@cache
def compute_schemas() -> dict[str, Any]:
    """The schemas of Compute Engine's v1 API.

    Source:
        The discovery document that google-api-python-client carries.
    """
    import googleapiclient

    document = Path(googleapiclient.__file__).parent / "discovery_cache/documents/compute.v1.json"
    schemas: dict[str, Any] = json.loads(document.read_text())["schemas"]
    return schemas


def instance_problems(node_config: dict[str, Any], place: str = "node_config") -> Iterator[str]:
    """Yield what is wrong with the description of a machine: unknown fields, wrong types, unknown or old values."""
    yield from _problems(node_config, {"$ref": "Instance"}, place)


def _problems(value: object, schema: dict[str, Any], place: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = {"type": "object", "properties": {}} | compute_schemas()[schema["$ref"]]
    if schema.get("deprecated"):
        yield f"{place} is deprecated"
    expected = str(schema["type"])
    # A 64-bit number is a string in JSON; the API takes a number as well.
    is_number = schema.get("format") in {"int64", "uint64"}
    expected_type = (str, int) if is_number else TYPES[expected]
    if not isinstance(value, expected_type) or (isinstance(value, bool) and expected != "boolean"):
        yield f"{place} is {value!r}, expected {expected}"
    elif is_number and not str(value).isdecimal():
        yield f"{place} is {value!r}, expected a whole number"
    elif isinstance(value, dict):
        yield from _fields(value, schema, place)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(item, schema["items"], f"{place}[{index}]")
    elif "enum" in schema:
        outdated = schema.get("enumDeprecated", [False] * len(schema["enum"]))
        allowed = [name for name, is_old in zip(schema["enum"], outdated, strict=True) if not is_old]
        if value not in allowed:
            yield f"{place} is {value!r}, expected one of {', '.join(allowed)}"


def _fields(value: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[str]:
    for name, item in value.items():
        of_field = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if of_field is None:
            yield f"{place}.{name} is not a field of Compute Engine"
        else:
            yield from _problems(item, of_field, f"{place}.{name}")
