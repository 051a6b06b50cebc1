"""Which training images validate: whole groups, chosen by hash, so that no group is in two splits."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib.errors import DataError


@dataclass(frozen=True)
class Member:
    """An image as the choice sees it.

    Attributes:
        image_id: Its identity.
        label: Its class.
        group: What must not be torn apart: a slide, a patient, or the image itself where nothing is known.
    """

    image_id: str
    label: str
    group: str


def choose_validation(members: Sequence[Member], fraction: float, seed: int) -> frozenset[str]:
    """The training images that validate instead.

    For each class, groups are taken in the order of their seeded hashes until `fraction` of its images is reached, but
    at least one image; a group that is the last of one of its classes stays in training. So adding images moves few
    of the others, and a class that is one group has no validation.

    Args:
        members: The images of the training split.
        fraction: Share of each class to take, in [0, 1).
        seed: Another seed makes another choice.
    """
    totals = Counter(member.label for member in members)
    groups = _groups(members)
    order = sorted(groups, key=lambda group: _seeded_hash(group, seed))
    chosen: set[str] = set()
    taken: Counter[str] = Counter()
    for label in sorted(totals) if fraction else ():
        wanted = min(max(1, round(fraction * totals[label])), totals[label] - 1)
        for group in order:
            if taken[label] >= wanted:
                break
            labels = groups[group]
            if labels[label] and group not in chosen and all(taken[n] + labels[n] < totals[n] for n in labels):
                chosen.add(group)
                taken += labels
    return frozenset(member.image_id for member in members if member.group in chosen)


def refuse_torn_groups(placed: Iterable[tuple[str | None, str]]) -> None:
    """Stop when a group is in training and in the test split.

    Args:
        placed: Group (None where unknown) and split of every image.

    Raises:
        DataError: Naming the first such group.
    """
    splits: dict[str, set[str]] = {}
    for group, split in placed:
        if group is not None:
            splits.setdefault(group, set()).add(split)
    torn = sorted(group for group, found in splits.items() if len(found) > 1)
    if torn:
        found = " and ".join(sorted(splits[torn[0]]))
        raise DataError(f"group {torn[0]!r} is in {found} ({len(torn)} such groups): a score on it would be flattered")


def _groups(members: Sequence[Member]) -> dict[str, Counter[str]]:
    groups: dict[str, Counter[str]] = {}
    for member in members:
        groups.setdefault(member.group, Counter())[member.label] += 1
    return groups


def _seeded_hash(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), key=seed.to_bytes(8, "big"), digest_size=8).digest()
