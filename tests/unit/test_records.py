"""The JSON files of output folders: each record comes back as it was written, and one of a newer version is refused."""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

import lib
from lib.config.images import ImageConfig
from lib.errors import SettingsError, StorageError
from lib.folders.checks import ChecksRecord
from lib.folders.choice import ChoiceRecord
from lib.folders.dataset import DatasetRecord
from lib.folders.evaluation import Metrics
from lib.folders.lease import WriterRecord
from lib.folders.markers import KINDS
from lib.folders.output import RunRecord
from lib.folders.record import COMPLETION_KEYS, PACKAGE, StoredRecord
from lib.folders.sweep import Leaderboard, TrialRecord
from lib.storage.location import Location
from tests.fakes.records import dataset_record, model_record

STORED: tuple[type[StoredRecord], ...] = (*KINDS, RunRecord, WriterRecord, Metrics, TrialRecord, Leaderboard)
numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text(max_size=5)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**53), 2**53),
    float: numbers,
    str: st.text(max_size=5),
    bool: st.booleans(),
    type(None): st.none(),
    JsonValue: scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=3), scalars, max_size=2),
    ImageConfig: st.builds(ImageConfig, image_size=st.integers(16, 4096), quality=st.integers(1, 100)),
}
COMPOSED: dict[Any, Callable[..., st.SearchStrategy[Any]]] = {
    Union: st.one_of,
    UnionType: st.one_of,
    list: lambda item: st.lists(item, max_size=2),
    tuple: st.tuples,
    dict: lambda key, value: st.dictionaries(key, value, max_size=2),
    Mapping: lambda key, value: st.dictionaries(key, value, max_size=2),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field of a record."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) in COMPOSED:
        return COMPOSED[get_origin(kind)](*map(values_of, get_args(kind)))
    return records_of(kind)


def records_of(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Records with all that they must have, and perhaps what they may have."""
    fields = kind.model_fields
    must = {name: values_of(field.annotation) for name, field in fields.items() if field.is_required()}
    may = {name: values_of(field.annotation) for name, field in fields.items() if not field.is_required()}
    return st.fixed_dictionaries(must, optional=may).map(kind.model_validate)


@pytest.mark.parametrize("kind", STORED)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_a_record_comes_back_from_its_file_as_it_was_written(
    kind: type[StoredRecord], tmp_path: Path, data: st.DataObject
) -> None:
    record, folder = data.draw(records_of(kind)), Location(str(tmp_path))
    record.write(folder)
    read = kind.read(folder)
    assert read == record
    assert read.model_fields_set == record.model_fields_set
    assert set((folder / kind.FILE).read_json()) == record.model_fields_set


def test_the_table_of_what_jobs_write_names_the_last_file_of_each() -> None:
    page = (Path(lib.__file__).parents[1] / "jobs" / "docs" / "your-images.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| \w+ \| (.*) \|$", page, re.MULTILINE))
    for kind in set(KINDS) - {ChecksRecord, ChoiceRecord}:  # in the folders of an evaluation and of a pipeline
        named = {f"`{kind.FILE}`", *([f"`{kind.PARTS}/`"] if kind.PARTS else [])}
        assert named <= set(re.findall(r"`[^`]+`", rows[kind.JOB])), kind


def test_each_record_has_a_file_of_its_own() -> None:
    assert len({kind.FILE for kind in STORED}) == len(STORED)


@pytest.mark.parametrize("where", ["", "counts", "image_policy"])
def test_a_key_of_a_newer_version_is_refused_with_both_versions_and_a_remedy(tmp_path: Path, where: str) -> None:
    content: dict[str, Any] = dataset_record(versions={PACKAGE: "7.8.9"}).as_json()
    (content[where] if where else content)["colour_space"] = "XYZ"
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(SettingsError) as refusal:
        DatasetRecord.read(Location(str(tmp_path)))
    message = str(refusal.value)
    assert message.startswith(
        f"{tmp_path}/dataset.json has the key {'.'.join(filter(None, [where, 'colour_space']))!r}"
    )
    assert f"{PACKAGE} {lib.__version__} does not know" in message
    assert f"written by {PACKAGE} 7.8.9" in message
    assert "make the folder again" in message
    assert "\n" not in message


def test_a_key_that_is_missing_is_told_by_name(tmp_path: Path) -> None:
    content = dataset_record().as_json()
    del content["class_names"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path}/dataset.json: class_names: Field required")):
        DatasetRecord.read(Location(str(tmp_path)))


def test_what_all_completion_files_have_comes_last() -> None:
    keys = list(model_record(marker="model.json", inputs={}).as_json())
    assert tuple(keys[-5:]) == COMPLETION_KEYS
    assert keys[:2] == ["world_size", "parameters"]


def test_the_version_of_the_library_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(lib.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == (PACKAGE, lib.__version__)
