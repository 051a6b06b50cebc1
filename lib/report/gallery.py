"""Which of many mistakes are shown."""

from collections import Counter
from collections.abc import Sequence

from lib.folders.predictions import Mistake

MOST_MISTAKES = 300
"""Misclassified images shown for each model; the page states how many more there are."""
OF_EACH_PAIR = 3


def choose_mistakes(mistakes: Sequence[Mistake]) -> tuple[Mistake, ...]:
    """The most confident mistakes, and of each pair of confused classes the three most confident.

    Where there are too many pairs for three of each, every pair comes once before any comes twice.

    Args:
        mistakes: All of them, the most confident first.

    Returns:
        At most `MOST_MISTAKES`, the most confident first.
    """
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for place, mistake in enumerate(mistakes):
        turn = seen[mistake.actual, mistake.predicted]
        seen[mistake.actual, mistake.predicted] += 1
        turns.append((min(turn, OF_EACH_PAIR), place))
    return tuple(mistakes[place] for place in sorted(place for _, place in sorted(turns)[:MOST_MISTAKES]))
