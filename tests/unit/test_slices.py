"""Measures by column: those of the images alone, tested against the others, and no alarm where there is nothing."""

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import fisher_exact

from lib.evaluation.measures.measures import OVERALL
from lib.evaluation.measures.metrics import classification_metrics
from lib.evaluation.measures.slices import Answers, holm, quarters, slice_table, slices_of
from lib.folders.evaluation import SLICE_SCHEMA, read_slices, write_slices
from lib.storage.location import Location


def answers(right: list[bool], groups: list[str | None] | None = None) -> Answers:
    """Images of two classes in turns, predicted right or wrong."""
    actual = np.arange(len(right)) % 2
    sure = np.where(np.array(right), 0.9, 0.1)
    return Answers(
        actual, np.where(actual[:, None] == [0, 1], sure[:, None], 1 - sure[:, None]), groups or [None] * len(right)
    )


def rows(answered: Answers, **columns: list[Any]) -> list[dict[str, Any]]:
    table = slice_table(answered, columns, resamples=100)
    assert table.schema == SLICE_SCHEMA
    return table.to_pylist()


def test_a_slice_is_measured_as_its_images_alone_are() -> None:
    answered = answers([True, False, True, True, True, False, True, True, True, True, True, True])
    worst, best = rows(answered, site=["Kiel"] * 6 + ["Bonn"] * 6)
    assert (worst["column"], worst["value"], worst["images"], best["value"]) == ("site", "Kiel", 6, "Bonn")
    alone = classification_metrics(answered.actual[:6], answered.probabilities[:6], ["a", "b"]).as_json()
    for name in set(OVERALL) - {"macro_f1"}:
        assert worst[name] == pytest.approx(alone[name]), name
    assert worst["macro_f1"] == pytest.approx(alone["macro"]["f1"])
    assert (best["accuracy"], best["accuracy_high"]) == (1, pytest.approx(1))
    assert best["accuracy_low"] < 0.65  # six right ones prove little


def test_without_groups_the_test_is_fishers_and_with_them_of_whole_groups() -> None:
    right, site = [True] * 10 + [False] * 10, ["Kiel"] * 10 + ["Bonn"] * 10
    by_image = rows(answers(right), site=site)[0]
    assert by_image["p_value"] == pytest.approx(fisher_exact([[0, 10], [10, 0]])[1])
    assert by_image["adjusted_p_value"] == pytest.approx(2 * by_image["p_value"])
    of_two_slides = rows(answers(right, ["s1"] * 10 + ["s2"] * 10), site=site)[0]
    assert of_two_slides["p_value"] == 1  # which of two slides is the worse one says nothing of a site
    assert of_two_slides["groups"] == 1


def test_permutations_come_to_the_share_of_all_ways_to_choose_as_many_groups() -> None:
    images, right = np.array([4, 2, 3, 5, 2, 4, 3]), np.array([1, 0, 2, 5, 2, 4, 2])
    groups = np.repeat([f"slide {number}" for number in range(7)], images).tolist()
    correct = np.concatenate([np.arange(n) < r for n, r in zip(images, right, strict=True)]).tolist()
    site = ["Kiel" if group in {"slide 0", "slide 1", "slide 2"} else "Bonn" for group in groups]

    def apart(chosen: tuple[int, ...]) -> float:
        rest = [number for number in range(7) if number not in chosen]
        return abs(right[list(chosen)].sum() / images[list(chosen)].sum() - right[rest].sum() / images[rest].sum())

    ways = [apart(chosen) >= apart((0, 1, 2)) - 1e-12 for chosen in combinations(range(7), 3)]
    found = {row["value"]: row for row in rows(answers(correct, groups), site=site)}
    assert found["Kiel"]["p_value"] == pytest.approx(np.mean(ways), abs=0.015)
    assert found["Kiel"]["groups"] == 3


def test_a_column_that_differs_within_a_group_is_measured_but_not_tested() -> None:
    found = rows(answers([True, False] * 10, ["s1"] * 10 + ["s2"] * 10), stain=["a", "b"] * 10)
    assert [row["accuracy"] for row in found] == [0, 1]
    assert {row["p_value"] for row in found} == {row["adjusted_p_value"] for row in found} == {None}


def test_the_correction_is_holms() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_columns_that_say_nothing_raise_few_alarms() -> None:
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(15):
        right = (random.random(60) < 0.8).tolist()
        columns = {f"column {number}": random.choice(list("abcd"), 60).tolist() for number in range(3)}
        found = slice_table(answers(right), columns, resamples=1).column("adjusted_p_value").to_pylist()
        alarms += any(p_value < 0.05 for p_value in found)
    assert alarms <= 3


def test_many_numbers_are_cut_into_quarters_and_few_are_not() -> None:
    ages = [str(age) for age in range(20, 60)]
    named = quarters([*ages, None])
    assert list(dict.fromkeys(named)) == ["20 to 29", "30 to 39", "40 to 49", "50 to 59", None]
    assert quarters(["1", "2", None] * 10) == ["1", "2", None] * 10
    assert quarters([*ages, "unknown"]) == [*ages, "unknown"]


def test_what_no_two_values_are_known_of_or_few_images_have_is_no_slice() -> None:
    assert list(slices_of("site", ["Kiel", "Kiel", None] * 10)) == []
    assert [one.value for one in slices_of("site", ["Kiel"] * 6 + ["Bonn"] * 4 + [None] * 9)] == ["Kiel"]
    assert slice_table(answers([True, False]), {}).num_rows == 0


def test_the_page_gets_the_lowest_accuracies_first(tmp_path: Any) -> None:
    folder = Location(str(tmp_path))
    assert read_slices(folder) is None
    table = slice_table(answers([True] * 10 + [False] * 10), {"site": ["Kiel"] * 10 + ["Bonn"] * 10})
    write_slices(pa.concat_tables([table] * 60), folder)
    found = read_slices(folder)
    assert (found.count, len(found.shown), found.shown[0].value) == (120, 100, "Bonn")
