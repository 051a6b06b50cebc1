"""Whether a model would work where none of its images are from: what its embeddings know of the site of an image.

Encoders recognise the hospital as well as the tissue. That does no harm by itself; it does where a class is more
frequent at one site, for then the site is a short cut to the class, which is gone at the next site.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import t as student
from scipy.stats.contingency import association
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.folders.evaluation import Interval, LeftOutSite, SiteRecord
from lib.models.probabilities import IntArray
from lib.plots import wilson_interval
from lib.projector import unit_length

MOST_IMAGES = 2000
"""Of training that heads are fitted on, and of all that neighbours are sought among."""
MOST_AXES = 128
FEWEST_IMAGES = 5
"""At a site for its accuracy to be told."""
FEWEST_SITES = 3
"""For an interval: two sites do not show how sites differ."""
NEIGHBOURS = 10
PERMUTATIONS = 999
LEVEL = 0.95
DRAWS = 3
"""Of as many images of all sites, whose mean is told."""


@dataclass(frozen=True)
class Embedded:
    """Images as a model sees them, those whose site is known.

    Attributes:
        embeddings: Shape (n, d), of unit length.
        labels: Classes as numbers, shape (n,).
        sites: Sites as numbers, shape (n,).
        groups: The slide or patient of each as a number, shape (n,); a number of its own where it is unknown.
        right: Whether the model is right on each, shape (n,); of images that it was trained on, it does not matter.
    """

    embeddings: npt.NDArray[np.float32]
    labels: IntArray
    sites: IntArray
    groups: IntArray
    right: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> "Embedded":
        """Some of them."""
        return Embedded(*(getattr(self, field.name)[places] for field in fields(self)))

    def some(self, most: int, seed: int = 0) -> "Embedded":
        """At most so many, as evenly from classes and sites as they have them."""
        shuffled = np.random.default_rng(seed).permutation(len(self))
        cells = self.labels[shuffled] * (self.sites.max(initial=0) + 1) + self.sites[shuffled]
        by_cell = np.argsort(cells, kind="stable")
        turns = np.arange(len(self)) - np.searchsorted(cells[by_cell], cells[by_cell])
        return self.at(np.sort(shuffled[by_cell[np.argsort(turns, kind="stable")[:most]]]))


def embedded(
    predictions: pa.Table, embeddings: npt.NDArray[np.float32], known: pa.Table, class_names: Sequence[str]
) -> Embedded:
    """The images whose site is known.

    Args:
        predictions: `image_id` and `predicted` of n images.
        embeddings: Shape (n, d), of any length.
        known: `image_id`, `label`, `site` and `group` of images whose site is known.
        class_names: The classes in order.
    """
    places = pc.index_in(predictions["image_id"], known["image_id"].combine_chunks())
    rows, names = known.take(places.filter(pc.is_valid(places))), known["site"].unique().sort()
    labels = pc.index_in(rows["label"], pa.array(class_names, pa.string())).to_numpy().astype(np.int64)
    sites = pc.index_in(rows["site"], names).to_numpy().astype(np.int64)
    groups = pc.coalesce(rows["group"], pc.binary_join_element_wise("", rows["image_id"], "\0")).combine_chunks()
    numbers = groups.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    kept = np.asarray(pc.is_valid(places).to_numpy(zero_copy_only=False), bool)
    answers = pc.index_in(predictions["predicted"], pa.array(class_names, pa.string())).to_numpy()[kept]
    return Embedded(unit_length(embeddings[kept]), labels, sites, numbers, np.asarray(answers == labels))


def site_record(training: Embedded, tested: Embedded, site_names: Sequence[str]) -> SiteRecord | None:
    """What is known of how a model depends on sites.

    Args:
        training: Images that it was trained on.
        tested: Images that it was not trained on.
        site_names: What the numbers of sites mean.

    Returns:
        None where the training images are of fewer than two sites.
    """
    if len(np.unique(training.sites)) < 2 or len(np.unique(training.labels)) < 2 or not len(tested):  # noqa: PLR2004
        return None
    some = tested.some(MOST_IMAGES)
    left_out = leave_sites_out(training.some(MOST_IMAGES), tested, site_names)
    expected, interval = forecast([one.elsewhere for one in left_out], [one.images for one in left_out])
    same, by_chance, p_value = site_read_within_classes(some)
    return SiteRecord(
        sites=len(np.unique(np.concatenate([training.sites, tested.sites]))),
        cramers_v=cramers_v(training.labels, training.sites),
        same_site=same,
        same_site_by_chance=by_chance,
        same_site_p_value=p_value,
        robustness_index=robustness_index(some),
        left_out=left_out,
        expected_accuracy=expected,
        expected_interval=interval,
    )


def cramers_v(labels: IntArray, sites: IntArray) -> float:
    """How far the site tells the label: 0 if not at all, 1 if the one follows from the other.

    Source: Cramer, Mathematical Methods of Statistics, 1946, page 282.
    """
    (_, rows), (_, columns) = (np.unique(numbers, return_inverse=True) for numbers in (labels, sites))
    table = np.zeros((rows.max() + 1, columns.max() + 1), int)
    np.add.at(table, (rows, columns), 1)
    return float(association(table, method="cramer")) if min(table.shape) > 1 else 0.0


def site_read_within_classes(images: Embedded, seed: int = 0) -> tuple[float | None, float | None, float | None]:
    """How often the nearest image of the same class, but of another slide or patient, is from the same site.

    Beside it, how often that is where the sites of the slides of each class are dealt out at random, and the
    probability that chance does as well.

    Returns:
        Three numbers in [0, 1]; None where no class has images of two sites.
    """
    pairs = []
    for label in np.unique(images.labels):
        places = np.flatnonzero(images.labels == label)
        if len(np.unique(images.sites[places])) > 1 and len(np.unique(images.groups[places])) > 2:  # noqa: PLR2004
            pairs.append((places, places[_neighbours(images.at(places), 1)[:, 0]]))
    if not pairs:
        return None, None, None
    seen, near = (np.concatenate(side) for side in zip(*pairs, strict=True))
    same, random = float((images.sites[seen] == images.sites[near]).mean()), np.random.default_rng(seed)
    drawn = []
    for _ in range(PERMUTATIONS):
        sites = _dealt_out(images, random)
        drawn.append(float((sites[seen] == sites[near]).mean()))
    as_much = sum(share >= same - 1e-12 for share in drawn)
    return same, float(np.mean(drawn)), (1 + as_much) / (1 + PERMUTATIONS)


def _dealt_out(images: Embedded, random: np.random.Generator) -> IntArray:
    """The sites, exchanged among the slides of each class; a slide is taken to be from one site."""
    sites = images.sites.copy()
    for label in np.unique(images.labels):
        places = np.flatnonzero(images.labels == label)
        _, first, of_group = np.unique(images.groups[places], return_index=True, return_inverse=True)
        sites[places] = random.permutation(images.sites[places][first])[of_group]
    return sites


def _neighbours(images: Embedded, count: int) -> IntArray:
    """The nearest images of other slides or patients, the nearest first, shape (n, count)."""
    similar = images.embeddings @ images.embeddings.T
    similar[images.groups[:, None] == images.groups] = -np.inf
    return np.asarray(np.argsort(-similar, axis=1, kind="stable")[:, :count])


def robustness_index(images: Embedded, count: int = NEIGHBOURS) -> float | None:
    """Among near images that share either the class or the site, the share that share the class.

        R = sum SO / (sum SO + sum OS)

    over all images and their neighbours, with SO of the same class and another site, OS of another class and the same
    site. 1 if the tissue decides what is near, 0 if the site does; None where no neighbour is of either kind.

    Source:
        Koemen et al., PathoROB: robustness of pathology foundation models, 2025, the robustness index.
    """
    neighbours = _neighbours(images, count)
    same_class = images.labels[neighbours] == images.labels[:, None]
    same_site = images.sites[neighbours] == images.sites[:, None]
    tissue, site = int((same_class & ~same_site).sum()), int((~same_class & same_site).sum())
    return tissue / (tissue + site) if tissue + site else None


def leave_sites_out(training: Embedded, tested: Embedded, site_names: Sequence[str]) -> list[LeftOutSite]:
    """For each site, the accuracy on its tested images of a head that was fitted on those of all other sites.

    Beside it, on the same images, that of heads fitted on as many images of each class, but of all sites (a head
    without a site has fewer images to learn from, which is no matter of sites), and that of the model itself. Images
    are not asked for whose class only this site has, since nobody could know it elsewhere; nor sites with fewer than
    `FEWEST_IMAGES` others.
    """
    found = []
    for site in np.unique(tested.sites):
        images, others = tested.at(tested.sites == site), training.at(training.sites != site)
        learned = np.isin(images.labels, others.labels)
        if learned.sum() < FEWEST_IMAGES or len(np.unique(others.labels)) < 2:  # noqa: PLR2004
            continue
        images = images.at(learned)
        as_many = [_as_many(training, others, draw) for draw in range(DRAWS)]
        found.append(
            LeftOutSite(
                site=site_names[site],
                images=len(images),
                in_training=bool((training.sites == site).any()),
                accuracy=_accuracy(others, images),
                as_many_accuracy=float(np.mean([_accuracy(some, images) for some in as_many])),
                ordinary_accuracy=float(images.right.mean()),
            )
        )
    return found


def _as_many(training: Embedded, others: Embedded, seed: int) -> Embedded:
    """As many images of each class as there are at other sites, drawn from all sites."""
    shuffled, chosen = np.random.default_rng(seed).permutation(len(training)), []
    for label in np.unique(others.labels):
        of_class = shuffled[training.labels[shuffled] == label]
        chosen.append(of_class[: (others.labels == label).sum()])
    return training.at(np.sort(np.concatenate(chosen)))


def _accuracy(training: Embedded, images: Embedded) -> float:
    return float((fitted_head(training).predict(images.embeddings) == images.labels).mean())


def fitted_head(images: Embedded) -> Pipeline:
    """A logistic regression on the main axes of embeddings."""
    axes = min(MOST_AXES, len(images) - 1, images.embeddings.shape[1])
    head = make_pipeline(StandardScaler(), PCA(axes, random_state=0), LogisticRegression(max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return head.fit(images.embeddings, images.labels)


def forecast(accuracies: Sequence[float], images: Sequence[int]) -> tuple[float | None, Interval | None]:
    """What to expect of one further site: the mean over sites, and the range in which 19 of 20 sites would lie.

        mean +- t(S - 1) * s * sqrt(1 + 1 / S)

    with the deviation s of S sites; from `FEWEST_SITES` sites on, and never beyond 0 and 1. It is at least Wilson's of
    as many images as a site has: where all sites are alike, their images are still few.

    Args:
        accuracies: Of each site, in [0, 1].
        images: From how many images.
    """
    if not accuracies:
        return None, None
    mean, sites = float(np.mean(accuracies)), len(accuracies)
    if sites < FEWEST_SITES:
        return mean, None
    reach = student.ppf((1 + LEVEL) / 2, sites - 1) * np.std(accuracies, ddof=1) * np.sqrt(1 + 1 / sites)
    of_one = int(np.median(images))
    low, high = wilson_interval(round(mean * of_one), of_one)
    return mean, (max(0.0, min(low, float(mean - reach))), min(1.0, max(high, float(mean + reach))))
