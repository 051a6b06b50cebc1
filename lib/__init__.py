"""Tissue images from storage to trained, evaluated and explained classifiers; see README.md in this folder.

from tissue import run      # in the repository: from lib import run
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lib.runtime.package import VERSION

if TYPE_CHECKING:
    from lib.runs.python import convert, evaluate, predict, run, train

__version__ = VERSION
__all__ = ["__version__", "convert", "evaluate", "predict", "run", "train"]


def __getattr__(name: str) -> object:
    """The jobs as functions, imported when one is asked for: a job or a worker needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.runs.python"), name)
