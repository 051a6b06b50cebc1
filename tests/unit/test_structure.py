"""The house: each module has a name of its own, and imports never come back to where they began."""

from collections import Counter
from pathlib import Path

import grimp

LIBRARY = Path(__file__).parents[2] / "lib"


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
