"""What embeddings know of the site of an image, and what that means for a site that nobody has seen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.evaluation.checks.sites import (
    Embedded,
    cramers_v,
    embedded,
    fitted_head,
    forecast,
    leave_sites_out,
    robustness_index,
    site_read_within_classes,
    site_record,
)
from lib.plots import wilson_interval
from lib.projector import unit_length

WIDTH = 24


class World:
    """Sites at which the second class is more or less frequent, and embeddings that show class and site.

    Attributes:
        confounded: By how much a site decides the class: 0 for not at all, 1 for altogether.
        loud: How much of an embedding is the site; the class is 1.
    """

    def __init__(self, confounded: float, loud: float, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.confounded, self.loud = confounded, loud
        self.tissue = self.random.normal(size=(2, WIDTH))
        self.stains = self.random.normal(size=(20, WIDTH))

    def images(self, sites: range, of_each: int = 60) -> Embedded:
        site = np.repeat(np.array(sites), of_each)
        share = np.where(site % 2 == 1, 0.5 + self.confounded / 2, 0.5 - self.confounded / 2)
        label = (self.random.random(len(site)) < share).astype(np.int64)
        noise = self.random.normal(0, 1.2, (len(site), WIDTH))
        seen = self.tissue[label] + self.loud * self.stains[site] + noise
        return Embedded(unit_length(seen.astype(np.float32)), label, site, np.arange(len(site)), label >= 0)


def answered(training: Embedded, tested: Embedded) -> Embedded:
    """The images as they are answered by a head of all training images, which is the model."""
    return replace(tested, right=fitted_head(training).predict(tested.embeddings) == tested.labels)


def images_of(seen: Any, labels: Any, sites: Any, groups: Any) -> Embedded:
    return Embedded(seen, np.asarray(labels), np.asarray(sites), np.asarray(groups), np.ones(len(labels), bool))


NAMES = [f"site {number}" for number in range(20)]


def test_cramers_v_is_1_where_the_site_tells_the_class_and_0_where_it_does_not() -> None:
    site = np.repeat([0, 1, 2], 20)
    assert cramers_v(site, site) == pytest.approx(1)
    assert cramers_v(np.tile([0, 1], 30), site) == pytest.approx(0)
    assert cramers_v(np.zeros(60, int), site) == 0
    # 2 x 2: 15, 5 / 5, 15: chi squared 10 of 40, without a correction
    assert cramers_v(np.repeat([0, 1, 0, 1], [15, 5, 5, 15]), np.repeat([0, 1], 20)) == pytest.approx(0.5)


def test_a_site_that_embeddings_show_is_read_and_one_that_they_do_not_is_not() -> None:
    same, by_chance, p_value = site_read_within_classes(World(0, 1.5).images(range(4)))
    assert same > by_chance + 0.2
    assert by_chance == pytest.approx(0.25, abs=0.05)
    assert p_value < 0.01
    blind = [site_read_within_classes(World(0, 0, seed).images(range(4), 30))[2] for seed in range(10)]
    assert sum(p_value < 0.05 for p_value in blind) <= 2


def test_images_of_one_slide_do_not_count_as_neighbours() -> None:
    """Each slide looks like nothing else, and each is of one site: between slides nothing tells the site."""
    random = np.random.default_rng(1)
    slide = np.repeat(np.arange(24), 5)
    seen = random.normal(size=(24, WIDTH))[slide] + random.normal(0, 0.05, (120, WIDTH))
    images = images_of(unit_length(seen.astype(np.float32)), slide % 2, slide // 2 % 3, slide)
    same, by_chance, p_value = site_read_within_classes(images)
    assert same < 0.75
    assert p_value > 0.05
    assert by_chance == pytest.approx(1 / 3, abs=0.1)


def test_the_robustness_index_counts_what_shares_one_of_both() -> None:
    angles = np.array([0, 1, 2, 90, 91, 92]) * np.pi / 180
    seen = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    by_class = images_of(seen, np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2]), np.arange(6))
    assert robustness_index(by_class, 2) == 1
    by_site = images_of(seen, np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1]), np.arange(6))
    assert robustness_index(by_site, 2) == 0
    # Neighbours of 0 are 1 and 2, of 1 are 0 and 2 ...: in each triple one shares the class, another the site.
    mixed = images_of(seen, np.array([0, 0, 1, 2, 2, 3]), np.array([0, 1, 0, 0, 1, 0]), np.arange(6))
    assert robustness_index(mixed, 2) == pytest.approx(4 / 8)
    assert robustness_index(images_of(seen[:2], np.array([0, 1]), np.array([0, 1]), np.arange(2)), 1) is None


def test_a_forecast_is_a_mean_with_the_range_of_further_sites_by_hand() -> None:
    mean, (low, high) = forecast([0.6, 0.7, 0.8], [1000, 1000, 1000])
    assert mean == pytest.approx(0.7)
    assert (low, high) == (pytest.approx(0.7 - 4.3027 * 0.1 * (4 / 3) ** 0.5, abs=1e-4), 1)
    assert forecast([0.6, 0.8], [9, 9]) == (pytest.approx(0.7), None)
    assert forecast([], []) == (None, None)


def test_sites_that_are_all_right_do_not_promise_that_the_next_one_is() -> None:
    assert forecast([1, 1, 1], [20, 20, 40]) == (1, (pytest.approx(wilson_interval(20, 20)[0]), 1))


@pytest.mark.parametrize(("confounded", "loud"), [(0.0, 0.0), (0.0, 1.5), (0.7, 1.0), (0.9, 2.0)])
def test_what_is_expected_on_a_new_site_is_what_comes(confounded: float, loud: float) -> None:
    forecasts, truths, ordinary = [], [], []
    for seed in range(4):
        world = World(confounded, loud, seed)
        training = world.images(range(10))
        tested, new = (answered(training, world.images(sites)) for sites in (range(10), range(10, 20)))
        left_out = leave_sites_out(training, tested, NAMES)
        elsewhere = leave_sites_out(training, new, NAMES)
        assert {one.in_training for one in left_out} == {True}
        assert {one.in_training for one in elsewhere} == {False}
        expected, (low, high) = forecast([one.elsewhere for one in left_out], [one.images for one in left_out])
        truths.append(new.right.mean())
        assert low <= truths[-1] <= high
        forecasts.append(expected)
        ordinary.append(np.mean([one.ordinary_accuracy for one in left_out]))
    assert np.mean(forecasts) == pytest.approx(np.mean(truths), abs=0.05)
    assert np.mean(ordinary) >= np.mean(forecasts) - 0.005  # what the site had added


def test_fewer_images_are_not_taken_for_another_site() -> None:
    """Sites that nothing tells apart: heads without one have half of few images, and are worse for that alone."""
    drops, costs = [], []
    for seed in range(6):
        world = World(0, 0, seed)
        training = world.images(range(2), 8)
        for one in leave_sites_out(training, answered(training, world.images(range(2), 100)), NAMES):
            drops.append(one.ordinary_accuracy - one.elsewhere)
            costs.append(one.ordinary_accuracy - one.accuracy)
    assert np.mean(drops) < np.mean(costs)
    assert np.mean(drops) == pytest.approx(0, abs=0.03)


def test_a_class_of_one_site_alone_is_not_asked_of_a_head_without_it() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    sites = np.where(labels == 2, 1, np.tile([0, 1], 60))
    images = images_of(unit_length(random.normal(size=(120, WIDTH)).astype(np.float32)), labels, sites, np.arange(120))
    found = {one.site: one.images for one in leave_sites_out(images, images, NAMES)}
    assert found == {"site 0": 40, "site 1": 40}


def test_images_of_unknown_site_are_left_out_and_numbered_by_name() -> None:
    rows = {
        "image_id": ["a", "b", "c"],
        "label": ["x", "y", "x"],
        "site": ["Kiel", "Bonn", "Kiel"],
        "group": ["s", None, "s"],
    }
    known = pa.table({name: pa.array(values, pa.string()) for name, values in rows.items()})
    predictions = pa.table({"image_id": ["c", "z", "b"], "predicted": ["x", "x", "x"]})
    found = embedded(predictions, np.eye(3, dtype=np.float32) * 2, known, ["x", "y"])
    assert found.right.tolist() == [True, False]
    assert (found.labels.tolist(), found.sites.tolist()) == ([0, 1], [1, 0])
    np.testing.assert_array_equal(found.embeddings, np.eye(3)[[0, 2]])
    assert found.groups[0] != found.groups[1]


def test_one_site_says_nothing_of_others() -> None:
    world = World(0, 1)
    assert site_record(world.images(range(1)), world.images(range(1)), NAMES) is None
    found = site_record(world.images(range(4)), world.images(range(4)), NAMES)
    assert (found.sites, len(found.left_out), found.is_readable) == (4, 4, True)
    assert 0 <= found.robustness_index <= 1
