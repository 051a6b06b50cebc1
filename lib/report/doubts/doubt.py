"""A reason to trust the verdict less."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Doubt:
    """A reason to trust the numbers less, or something that could not be checked."""

    title: str
    text: str
