import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from lib.dataset.folds import NEVER_LEFT_OUT
from lib.models import softmax_regression
from lib.models.softmax_regression import PENALTIES, Examples, LinearHead, Objective, Standardisation, solve

CLASSES = 3


def blobs(count: int, width: int, seed: int = 0, spread: float = 2.0) -> Examples:
    """Overlapping clouds of points, one a class, on features of very different scales."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    labels[:CLASSES] = range(CLASSES)
    centres = rng.normal(size=(CLASSES, width))
    features = (centres[labels] + spread * rng.normal(size=(count, width))) * np.geomspace(0.1, 100, width) + 5
    return Examples(features.astype(np.float32), labels, np.ones(count))


def loss_of(head: LinearHead, examples: Examples, penalty: float) -> float:
    """The objective, written down once more."""
    logits = head.logits(examples.features)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), examples.labels]
    width = examples.features.shape[1]
    return float(np.average(losses, weights=examples.weights) + penalty * width * (head.kernel**2).sum() / 2)


@pytest.mark.parametrize(("count", "width"), [(60, 12), (40, 90)])
def test_the_head_is_the_one_that_scikit_learn_finds(count: int, width: int) -> None:
    examples = blobs(count, width)
    solved = solve(examples, CLASSES, np.arange(count) % 5)
    penalty = solved.path[solved.chosen].penalty
    columns = solved.head.standardisation(examples.features)
    peer = LogisticRegression(C=1 / (count * penalty * width), tol=1e-10, max_iter=20_000).fit(columns, examples.labels)
    theirs = LinearHead(solved.head.standardisation, peer.coef_.T, peer.intercept_)
    assert loss_of(solved.head, examples, penalty) == pytest.approx(loss_of(theirs, examples, penalty), abs=1e-6)
    difference = solved.head.logits(examples.features).argmax(axis=1) != theirs.logits(examples.features).argmax(axis=1)
    assert not difference.any()


def test_an_image_of_weight_two_counts_as_two_images() -> None:
    examples = blobs(50, 8)
    weighted = Examples(examples.features, examples.labels, np.where(np.arange(50) < 10, 2.0, 1.0))
    repeated = np.concatenate([np.arange(50), np.arange(10)])
    listed = Examples(examples.features[repeated], examples.labels[repeated], np.ones(60))
    columns = Standardisation.of(examples.features)(examples.features) / np.sqrt(8)
    rng, penalty = np.random.default_rng(0), np.full(8, 1e-3)
    for _ in range(5):
        place = rng.normal(size=9 * CLASSES)
        of_weights, of_list = (
            Objective(some, found, CLASSES, penalty)(place)
            for some, found in ((columns, weighted), (columns[repeated], listed))
        )
        assert of_weights[0] == pytest.approx(of_list[0])
        np.testing.assert_allclose(of_weights[1], of_list[1], atol=1e-12)


def test_the_gradient_of_the_objective_is_its_slope() -> None:
    examples, rng = blobs(20, 4), np.random.default_rng(0)
    objective = Objective(rng.normal(size=(20, 4)), examples, CLASSES, np.full(4, 0.1))
    place = rng.normal(size=5 * CLASSES)
    gradient = objective(place)[1]
    for number in range(len(place)):
        step = np.zeros_like(place)
        step[number] = 1e-6
        slope = (objective(place + step)[0] - objective(place - step)[0]) / 2e-6
        assert gradient[number] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(("count", "width"), [(60, 12), (40, 90)])
def test_principal_axes_change_the_way_and_not_the_head(
    count: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = blobs(count, width)
    turned = solve(examples, CLASSES).head
    monkeypatch.setattr(softmax_regression, "MOST_AXES", 0)
    plain = solve(examples, CLASSES).head
    np.testing.assert_allclose(turned.logits(examples.features), plain.logits(examples.features), atol=2e-3)


def test_what_is_said_of_a_left_out_image_comes_from_a_head_that_has_not_seen_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(softmax_regression, "PENALTIES", (1e-3,))
    examples, folds = blobs(60, 6), np.arange(60) % 4
    folds[:5] = NEVER_LEFT_OUT
    changed = examples.labels.copy()
    changed[folds == 2] = (changed[folds == 2] + 1) % CLASSES
    said, said_of_changed = (
        solve(Examples(examples.features, labels, examples.weights), CLASSES, folds).left_out_logits
        for labels in (examples.labels, changed)
    )
    assert said is not None
    assert said_of_changed is not None
    assert np.isnan(said[:5]).all()
    assert np.isfinite(said[5:]).all()
    np.testing.assert_allclose(said_of_changed[folds == 2], said[folds == 2], atol=1e-4)
    assert np.abs(said_of_changed[folds == 3] - said[folds == 3]).max() > 0.1


def test_the_penalty_is_the_one_with_the_lowest_loss_on_images_left_out() -> None:
    solved = solve(blobs(80, 30, spread=3.0), CLASSES, np.arange(80) % 5)
    losses = [step.left_out.loss for step in solved.path if step.left_out]
    assert solved.chosen == int(np.argmin(losses))
    assert 0 < solved.chosen < len(PENALTIES) - 1
    assert [step.training.loss for step in solved.path] == sorted((s.training.loss for s in solved.path), reverse=True)


def test_validation_images_judge_where_no_fold_does() -> None:
    examples, others = blobs(60, 10), blobs(40, 10, seed=1)
    solved = solve(examples, CLASSES, None, others)
    losses = [step.validation.loss for step in solved.path if step.validation]
    assert len(losses) == len(solved.path)
    assert solved.chosen == int(np.argmin(losses))
    assert solved.left_out_logits is None


def test_without_anything_to_judge_by_there_is_one_penalty() -> None:
    solved = solve(blobs(30, 4), CLASSES, np.full(30, NEVER_LEFT_OUT))
    assert [step.penalty for step in solved.path] == [softmax_regression.UNTRIED_PENALTY]
    assert solved.path[0].judged is None


def test_a_block_of_many_features_has_no_more_say_than_one_of_few() -> None:
    features = np.random.default_rng(0).normal(size=(500, 12))
    scaled = Standardisation.of(features, [2, 10])(features)
    assert scaled[:, :2].var(axis=0).sum() == pytest.approx(scaled[:, 2:].var(axis=0).sum())
    assert scaled.var(axis=0).mean() == pytest.approx(1)


@given(st.integers(0, 1000))
def test_a_restated_head_says_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(20, 5))
    own = Standardisation(rng.normal(size=5), rng.uniform(0.5, 2, 5))
    other = Standardisation(rng.normal(size=5), rng.uniform(0.5, 2, 5))
    head = LinearHead(own, rng.normal(size=(5, CLASSES)), rng.normal(size=CLASSES))
    np.testing.assert_allclose(head.restated(other).logits(features), head.logits(features), atol=1e-9)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    examples = blobs(40, 5)
    constant = Examples(np.hstack([examples.features, np.ones((40, 1), np.float32)]), examples.labels, examples.weights)
    assert np.isfinite(solve(constant, CLASSES, np.arange(40) % 4).head.logits(constant.features)).all()
