"""Abstention: shares by hand, and what must hold for any predictions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.evaluation.measures.abstention import THRESHOLDS, abstention_table, risk_coverage_curve


def test_four_images_by_hand() -> None:
    rows = abstention_table(np.array([0.55, 0.65, 0.85, 0.97]), np.array([False, True, False, True]))
    assert [row.min_confidence for row in rows] == [0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    assert [row.answered for row in rows] == [1, 1, 0.75, 0.5, 0.5, 0.25, 0.25, 0]
    assert [row.accuracy for row in rows] == [0.5, 0.5, pytest.approx(2 / 3), 0.5, 0.5, 1, 1, None]


def test_a_confidence_of_0_9_in_float32_reaches_the_threshold_of_0_9() -> None:
    # 0.9 in float32 is 0.89999998; `predict --min-confidence 0.9` compares in float32 as well.
    rows = {row.min_confidence: row for row in abstention_table(np.array([0.9], np.float32), np.array([True]))}
    assert (rows[0.9].answered, rows[0.95].answered) == (1, 0)


def test_the_most_confident_images_are_answered_first_and_equal_ones_together() -> None:
    confidence = np.array([0.5, 0.9, 0.7, 0.7], np.float32)
    coverage, accuracy = risk_coverage_curve(confidence, np.array([False, True, True, False]))
    assert coverage.tolist() == [0.25, 0.75, 1]
    assert accuracy.tolist() == [1, pytest.approx(2 / 3), 0.5]


@st.composite
def answers(draw: st.DrawFn) -> tuple[Any, Any]:
    """Confidences, many of them equal, and whether the predictions are right."""
    pairs = draw(st.lists(st.tuples(st.integers(10, 100), st.booleans()), min_size=1, max_size=40))
    return np.array([hundredths / 100 for hundredths, _ in pairs], np.float32), np.array([right for _, right in pairs])


@given(answers(), st.randoms(use_true_random=False))
def test_curve_and_table_agree_in_any_order_of_the_images(answered: tuple[Any, Any], rng: Any) -> None:
    confidence, correct = answered
    coverage, accuracy = risk_coverage_curve(confidence, correct)
    assert (np.diff(coverage) > 0).all()
    assert (coverage[-1], accuracy[-1]) == (1, pytest.approx(correct.mean()))
    points = dict(zip(coverage.tolist(), accuracy.tolist(), strict=True))
    for row in abstention_table(confidence, correct):
        if row.accuracy is None:
            assert row.answered == 0
        else:
            assert points[row.answered] == pytest.approx(row.accuracy)
    order = np.array(rng.sample(range(len(confidence)), len(confidence)))
    for again, before in zip(risk_coverage_curve(confidence[order], correct[order]), (coverage, accuracy), strict=True):
        np.testing.assert_array_equal(again, before)


@given(answers())
def test_more_is_left_unanswered_the_higher_the_threshold(answered: tuple[Any, Any]) -> None:
    shares = [row.answered for row in abstention_table(*answered)]
    assert len(shares) == len(THRESHOLDS)
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
