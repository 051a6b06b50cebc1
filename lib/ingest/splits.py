"""Which training images validate: whole groups, chosen by hash, so that no group is in two splits."""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import DataError

ROWS_AT_ONCE = 10_000


def choose_validation(training: pa.Table, fraction: float, seed: int) -> pa.BooleanArray:
    """Which of the training images validate instead.

    For each class, groups are taken in the order of their seeded hashes until `fraction` of its images is reached, but
    at least one image; a group that is the last of one of its classes stays in training. So adding images moves few
    of the others, and a class that is one group has no validation.

    Args:
        training: `image_id`, `label` and `group` of the images of the training split. A group is what must not be torn
            apart, as a slide or a patient; an image without one is a group of its own.
        fraction: Share of each class to take, in [0, 1).
        seed: Another seed makes another choice.

    Returns:
        True for each image that validates, shape (n,).
    """
    label_names, labels_n = _numbered(training["label"])
    group_names, groups_n = _numbered(pc.coalesce(training["group"], training["image_id"]))
    totals = np.bincount(labels_n, minlength=len(label_names))
    taken = np.zeros_like(totals)
    chosen = np.zeros(len(group_names), bool)
    # One row for each pair of a group and a class in it, sorted by group: a group's classes are one slice.
    pairs, counts = np.unique(groups_n * len(label_names) + labels_n, return_counts=True)
    pair_groups, pair_labels = np.divmod(pairs, max(len(label_names), 1))
    starts = np.searchsorted(pair_groups, np.arange(len(group_names) + 1))
    hashes = np.fromiter((seeded_hash(name, seed) for name in _texts(group_names)), np.uint64, len(group_names))
    for label in pc.sort_indices(label_names).to_pylist() if fraction else ():
        wanted = min(max(1, round(fraction * int(totals[label]))), totals[label] - 1)
        candidates = pair_groups[pair_labels == label]
        for group in candidates[np.argsort(hashes[candidates], kind="stable")]:
            if taken[label] >= wanted:
                break
            of_group = slice(starts[group], starts[group + 1])
            classes = pair_labels[of_group]
            after = taken[classes] + counts[of_group]
            if not chosen[group] and np.all(after < totals[classes]):
                chosen[group] = True
                taken[classes] = after
    return pa.array(chosen[groups_n])


def refuse_torn_groups(images: pa.Table) -> None:
    """Stop when a group is in training and in the test split.

    Args:
        images: `group` (null where unknown) and `split` of every image.

    Raises:
        DataError: Naming the first such group.
    """
    grouped = images.select(["group", "split"]).filter(pc.is_valid(images["group"]))
    splits = grouped.group_by("group").aggregate([("split", "distinct")])
    torn = splits.filter(pc.greater(pc.list_value_length(splits["split_distinct"]), 1)).sort_by("group")
    if torn.num_rows:
        group, found = torn["group"][0].as_py(), " and ".join(sorted(torn["split_distinct"][0].as_py()))
        raise DataError(
            f"group {group!r} is in {found} ({torn.num_rows} such groups): a score on it would be too good; "
            "keep each group in one split"
        )


def _numbered(names: pa.ChunkedArray) -> tuple[pa.StringArray, npt.NDArray[np.int64]]:
    """The distinct names, and for each row the number of its name."""
    encoded = names.combine_chunks().dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _texts(names: pa.StringArray) -> Iterator[str]:
    for start in range(0, len(names), ROWS_AT_ONCE):
        yield from names.slice(start, ROWS_AT_ONCE).to_pylist()


def seeded_hash(text: str, seed: int) -> int:
    """A number that stands for a text, another one for each seed: below 2^64."""
    digest = hashlib.blake2b(text.encode(), key=seed.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
