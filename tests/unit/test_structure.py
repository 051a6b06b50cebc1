"""The house: each module has a name of its own, imports never come back, and tests leave what is private alone."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp

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
