"""Slow imports in a thread, while the main one waits for Ray."""

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def imported_meanwhile(module: str) -> Iterator[None]:
    """Import a module beside the body, which imports nothing that it imports, and wait for it at the end.

    Raises:
        Exception: What the import raises, unless the body has raised something.
    """
    with ThreadPoolExecutor(1) as thread:
        imported = thread.submit(importlib.import_module, module)
        yield
        imported.result()
