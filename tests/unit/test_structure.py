"""The house: each module has a name of its own, imports never come back, and tests leave what is private alone."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

import grimp
import pytest

TESTS = Path(__file__).parents[1]
LIBRARY = TESTS.parent / "lib"


def test_no_module_name_occurs_twice() -> None:
    names = Counter(file.stem for file in LIBRARY.rglob("*.py") if file.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_import_comes_back_to_where_it_began() -> None:
    imports = grimp.build_graph("lib", cache_dir=None)  # those inside functions and for type checkers too
    circles = [
        module
        for module in imports.modules
        if any(
            module in imports.find_upstream_modules(imported)
            for imported in imports.find_modules_directly_imported_by(module)
        )
    ]
    assert sorted(circles) == []


def test_no_test_replaces_what_is_private() -> None:
    replaced = [(file.name, name) for file in TESTS.rglob("*.py") for name in _replaced_names(file)]
    assert len(replaced) > 50
    assert [(file, name) for file, name in replaced if name.rpartition(".")[2].startswith("_")] == []


def _replaced_names(file: Path) -> Iterator[str]:
    """The names that a file gives to `monkeypatch.setattr`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            texts = [it.value for it in node.args[:2] if isinstance(it, ast.Constant) and isinstance(it.value, str)]
            yield from texts[:1]


def test_private_modules_of_ray_are_used_in_two_rooms_alone() -> None:
    # Not a contract of import-linter, to which all of Ray is one module.
    users = {file.relative_to(LIBRARY) for file in LIBRARY.rglob("*.py") if private_modules_of_ray(file.read_text())}
    of_runtime = {PurePath("runtime/ray_data.py"), PurePath("runtime/lone_ray.py")}
    assert of_runtime <= users
    assert {file.parent for file in users - of_runtime} == {PurePath("training/workers")}


@pytest.mark.parametrize(
    "code",
    [
        "import ray._raylet",
        "from ray import _private",
        "def load():\n    from ray.data._internal.stats import Timer",
        "from ray.train.v2 import _internal as internal",
        "import ray\nstate = ray._private.state",
    ],
)
def test_a_private_module_is_seen_however_it_is_imported(code: str) -> None:
    assert private_modules_of_ray(code)


def test_public_modules_of_ray_are_not_taken_for_private_ones() -> None:
    code = "import ray\nfrom ray.train import RunConfig\nfrom lib._x import y\nself._ray.train\nray.data.DataContext"
    assert private_modules_of_ray(code) == []


def private_modules_of_ray(code: str) -> list[str]:
    """The names in some code that begin with `ray` and have a part that is not for others."""
    named: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            named.append(ast.unparse(node))
    return [name for name in named if name.startswith("ray.") and "._" in name]


def test_an_actor_that_predicts_waits_for_no_drawing_library() -> None:
    loaded = "import sys, lib.evaluation.predictor; print(*{'matplotlib', 'sklearn'} & set(sys.modules))"
    command = [sys.executable, "-c", loaded]
    assert subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_only_the_files_of_folders_read_and_write_what_output_folders_hold() -> None:
    by_hand = re.compile(
        r"\.(?:read|write)_json\(|\b(?:read|write)_table\(|\bpq\.|\"[\w/]+\.(?:parquet|json|keras|html)\""
    )
    elsewhere = [file for file in LIBRARY.rglob("*.py") if file.parent.name not in {"folders", "storage", "projector"}]
    elsewhere += [*LIBRARY.parent.glob("jobs/*.py"), LIBRARY.parent / "cluster" / "submit.py"]
    assert [(file.name, found) for file in elsewhere for found in by_hand.findall(file.read_text())] == []
