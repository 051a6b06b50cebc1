"""Images of one split that look like images of another: copies, rescans, crops, mirrored and turned ones.

Tried on the 264 images of 12 organs (H&E, 34,716 pairs) and on changed copies of each. Shares of the copies that are
within 8, 10 and 14 of 63 bits of their original:

    JPEG of quality 30, half or a fifth of the size, 20 % brighter or darker, gamma 1.3,
    other stain, blurred, noisy, mirrored, turned by 90 degrees, 2 % cropped at each side   0.99  1     1
    5 % cropped at each side; turned by 3 degrees                                           0.85  0.95  1
    10 % cropped at each side; shifted by 5 %                                               0.19  0.40  0.81
    turned by 8 degrees                                                                     0.05  0.16  0.59
    shifted by 10 %                                                                         0     0.02  0.08

The closest two of the images themselves differ in 14 bits, as chance would have it (`chance_limit`).

A model's embeddings propose further pairs. No cosine similarity tells copies: with features of MobileNet (ImageNet)
a JPEG of quality 30 is at a cosine distance of 0.03 from its original, and the nearest other image at 0.10 (medians);
after a linear map fitted to the classes, at 0.03 and 0.02, so that copies are farther than others of their class. But
the original is among the 10 nearest for at least 0.99 and 0.88 of the copies of each kind above (0.94 and 0.67 if
turned by 90 degrees). So the nearest few are compared by their hashes, with a limit that would find too much among all
pairs: 14 bits, met by none of the 2,640 neighbours of the images themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.evaluation.checks.descriptors import HASH_BITS, VIEWS
from lib.evaluation.checks.hash_index import HashArray, Pairs, different_bits, joined, near_pairs
from lib.folders.checks import NEAR_DUPLICATE_SCHEMA
from lib.folders.manifest import SPLITS
from lib.models.probabilities import FloatArray

SPLIT_PAIRS = (("test", "train"), ("test", "validation"), ("validation", "train"))
LIMITS = (10, 8, 6, 4, 2)
PROPOSED_LIMIT = 14
"""Most different bits of images that a model holds for neighbours."""
NEIGHBOURS = 10
"""Images beside each image: kept of another split, or compared because their embeddings are the nearest."""
_EMBEDDINGS_AT_ONCE = 1024


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of images across splits.

    Attributes:
        pairs: Rows of `NEAR_DUPLICATE_SCHEMA`, closest first; of each image its 10 closest in each other split.
        most_different_bits: Up to how many different bits pairs were searched for.
    """

    pairs: pa.Table
    most_different_bits: int

    @classmethod
    def among(cls, descriptors: pa.Table) -> "NearDuplicates":
        """Find the pairs among rows of `DESCRIPTOR_SCHEMA`; images without structure are in none."""
        hashed = descriptors.filter(pc.is_valid(descriptors["perceptual_hash"]))
        splits = {split: hashed.filter(pc.equal(hashed["split"], split)) for split in SPLITS}
        limit = chance_limit(sum(VIEWS * splits[one].num_rows * splits[other].num_rows for one, other in SPLIT_PAIRS))
        found = [_pairs_between(splits[one], splits[other], limit) for one, other in SPLIT_PAIRS]
        order = [("hamming", "ascending"), ("image_id", "ascending"), ("other_image_id", "ascending")]
        return cls(pa.concat_tables(found).sort_by(order), limit)


def chance_limit(comparisons: int) -> int:
    """The most different bits, 2 to 10, for which chance is to be expected to give less than one pair.

    Two hashes with 31 of 63 bits set are within 2k bits with probability
    sum over j <= k of C(31, j) * C(32, j) / C(63, 31): 3.7e-8 for 10 bits, 1.3e-9 for 8, 2.5e-11 for 6.

    Args:
        comparisons: How many pairs of hashes are compared.
    """
    set_bits = HASH_BITS // 2
    for limit in LIMITS:
        within = sum(comb(set_bits, bits) * comb(HASH_BITS - set_bits, bits) for bits in range(limit // 2 + 1))
        if comparisons * within < comb(HASH_BITS, set_bits):
            return limit
    return LIMITS[-1]


def nearest_training_images(
    embeddings: FloatArray, views: HashArray, reference: FloatArray, hashes: HashArray
) -> Pairs:
    """Training images that a model holds for neighbours of an image, and that also look like it.

    Args:
        embeddings: Embeddings of the images, each of unit length, shape (n, d).
        views: Hashes of their 8 views, shape (n, 8).
        reference: Embeddings of training images, each of unit length, shape (m, d), m at least 1.
        hashes: Their hashes, shape (m,).

    Returns:
        The pairs within 14 different bits among each image and the 10 training images that are nearest to it.
    """
    neighbours, found = min(NEIGHBOURS, len(reference)), []
    for first in range(0, len(embeddings), _EMBEDDINGS_AT_ONCE):
        block = slice(first, first + _EMBEDDINGS_AT_ONCE)
        similarity = embeddings[block] @ reference.T
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
        bits = different_bits(views[block][:, :, None], hashes[nearest][:, None, :]).min(axis=1)
        image, place = np.nonzero(bits <= PROPOSED_LIMIT)
        found.append((image + first, nearest[image, place], bits[image, place]))
    return joined(found)


def proposed_duplicates(
    descriptors: pa.Table,
    image_ids: Sequence[str],
    embeddings: FloatArray,
    reference_ids: Sequence[str],
    reference: FloatArray,
) -> pa.Table:
    """The pairs of `nearest_training_images` among images of one data set, as rows of `NEAR_DUPLICATE_SCHEMA`.

    Args:
        descriptors: Rows of `DESCRIPTOR_SCHEMA` of the data set.
        image_ids: The images, shape (n,).
        embeddings: Embeddings of the images, each of unit length, shape (n, d).
        reference_ids: Images of another split, shape (m,).
        reference: Their embeddings, each of unit length, shape (m, d).

    Returns:
        Closest first. Images without structure, or without descriptors, are in none.
    """
    hashed = descriptors.filter(pc.is_valid(descriptors["perceptual_hash"]))
    rows = {image_id: row for row, image_id in enumerate(hashed["image_id"].to_pylist())}
    kept, other_kept = (
        [place for place, name in enumerate(names) if name in rows] for names in (image_ids, reference_ids)
    )
    if not kept or not other_kept:
        return NEAR_DUPLICATE_SCHEMA.empty_table()
    ones = hashed.take([rows[image_ids[place]] for place in kept])
    others = hashed.take([rows[reference_ids[place]] for place in other_kept])
    one, other, bits = nearest_training_images(
        embeddings[kept], _view_hashes(ones), reference[other_kept], _hashes(others)
    )
    return _rows(ones.take(one), others.take(other), bits).sort_by("hamming")


def _pairs_between(ones: pa.Table, others: pa.Table, limit: int) -> pa.Table:
    one, other, bits = near_pairs(_view_hashes(ones), _hashes(others), limit, NEIGHBOURS)
    return _rows(ones.take(one), others.take(other), bits)


def _rows(ones: pa.Table, others: pa.Table, bits: npt.NDArray[np.int32]) -> pa.Table:
    names = ("image_id", "path", "label", "split")
    columns = {name: ones[name] for name in names} | {f"other_{name}": others[name] for name in names}
    return pa.table({**columns, "hamming": bits}, schema=NEAR_DUPLICATE_SCHEMA)


def _hashes(descriptors: pa.Table) -> HashArray:
    return np.asarray(descriptors["perceptual_hash"].to_numpy(), np.uint64)


def _view_hashes(descriptors: pa.Table) -> HashArray:
    return np.asarray(pc.list_flatten(descriptors["view_hashes"]).to_numpy(), np.uint64).reshape(-1, VIEWS)
