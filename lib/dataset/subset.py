"""A part of a split that has as many images of each class as of any other, as far as there are so many."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.source import ImageSource
from lib.storage.location import FETCH_CONCURRENCY


def balanced_subset(source: ImageSource, split: str, most: int) -> pa.Table:
    """Images of a split, spread evenly over the classes: of each class those that come first.

    Images are listed by their `image_id`, a hash of their path, so that the first ones are as good as any. No more
    names are read than it takes.

    Args:
        source: The images.
        split: Which of them; not empty.
        most: How many in all at most.

    Returns:
        Their names (`lib.dataset.source.NAMES`), by position. A damaged file is among them if nobody has found it out.

    Raises:
        StorageError: If names cannot be read.
    """
    left = even_quotas(source.class_counts(split), most)
    classes = pa.array(source.class_names, pa.string())
    parts = []
    for names in _names(source, split):
        numbers = pc.index_in(names["label"], classes).to_numpy()
        taken = np.zeros(len(numbers), bool)
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)[: left[number]]
            taken[places] = True
            left[number] -= len(places)
        parts.append(names.filter(pa.array(taken)))
        if not any(left):
            break
    return pa.concat_tables(parts)


def _names(source: ImageSource, split: str) -> Iterator[pa.Table]:
    """The names of a split, unit by unit, of which some are read at the same time."""
    units = source.units(split)
    with ThreadPoolExecutor(FETCH_CONCURRENCY) as threads:
        for start in range(0, len(units), FETCH_CONCURRENCY):
            yield from threads.map(source.names, units[start : start + FETCH_CONCURRENCY])


def even_quotas(counts: Sequence[int], most: int) -> list[int]:
    """How many images to take of each class, so that no class has more than it must.

    Args:
        counts: Images of each class.
        most: How many to take in all at most, at least as many as there are classes.

    Returns:
        The largest quota that all classes can share, or all images of a class that has fewer.
    """
    each, left = 0, most
    for place, count in enumerate(sorted(counts)):
        each = left // (len(counts) - place)
        if count > each:
            break
        left -= count
        each = max(counts)
    return [min(count, each) for count in counts]
