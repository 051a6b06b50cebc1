"""The colour baseline finds what colour tells, learns from the training split alone, and is always the same."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from lib.evaluation.checks.colour_baseline import (
    DEFAULT_STRENGTH,
    STRENGTHS,
    Baseline,
    cross_validated_colours,
)
from lib.folders.checks import BASELINE_SCHEMA, DESCRIPTOR_SCHEMA

CLASS_NAMES = ["liver", "lung", "skin"]


def tinted(split: str, counts: dict[str, int], seed: int = 0, group: str | None = None) -> pa.Table:
    """Descriptors of images whose colours are near those of their class."""
    random = np.random.default_rng((seed, len(split)))
    rows = []
    for label, count in counts.items():
        centre = np.random.default_rng(CLASS_NAMES.index(label)).dirichlet(np.ones(96))
        for number in range(count):
            histogram = random.dirichlet(60 * centre + 0.05)
            row = {"image_id": f"{split}-{number}-{label}", "path": f"{split}/{label}/{number}.tif", "label": label}
            rows.append(row | {"split": split, "group": group and f"{group}{number % 2}", "histogram": histogram})
    return pa.Table.from_pylist(rows, schema=DESCRIPTOR_SCHEMA)


def every(number: int) -> dict[str, int]:
    return dict.fromkeys(CLASS_NAMES, number)


def relabelled(descriptors: pa.Table, labels: list[str]) -> pa.Table:
    place = descriptors.schema.get_field_index("label")
    return descriptors.set_column(place, DESCRIPTOR_SCHEMA.field("label"), pa.array(labels))


def test_colours_that_tell_the_classes_are_found() -> None:
    baseline = Baseline.of(
        pa.concat_tables([tinted("train", every(20)), tinted("test", every(10))]), "test", CLASS_NAMES
    )
    assert baseline.record is not None
    assert baseline.record.accuracy == np.mean(baseline.rows["correct"].to_pylist()) >= 0.9
    low, high = baseline.record.interval
    assert 0 <= low <= baseline.record.accuracy <= high <= 1
    assert (baseline.record.images, baseline.record.training_images) == (30, 60)
    assert baseline.rows.schema == BASELINE_SCHEMA
    assert baseline.rows["image_id"].to_pylist() == sorted(
        f"test-{n}-{name}" for n in range(10) for name in CLASS_NAMES
    )


def test_colours_that_tell_nothing_give_chance() -> None:
    test, random = tinted("test", every(60)), np.random.default_rng(1)
    shuffled = relabelled(test, random.permutation(test["label"].to_pylist()).tolist())
    baseline = Baseline.of(pa.concat_tables([tinted("train", every(20)), shuffled]), "test", CLASS_NAMES)
    assert baseline.record is not None
    assert 0.2 <= baseline.record.accuracy <= 0.47


def test_the_order_of_the_descriptors_changes_nothing() -> None:
    table = pa.concat_tables([tinted("train", every(20)), tinted("validation", every(4)), tinted("test", every(9))])
    mixed = table.take(np.random.default_rng(2).permutation(table.num_rows))
    one, other = (Baseline.of(rows, "test", CLASS_NAMES) for rows in (table, mixed))
    assert one.record == other.record
    assert one.rows.equals(other.rows)


def test_regularisation_is_chosen_on_validation_images() -> None:
    train, test = tinted("train", every(12)), tinted("test", every(5))
    good = tinted("validation", every(12))
    labels = good["label"].to_pylist()
    bad = relabelled(good, [*labels[12:], *labels[:12]])  # the less a model says, the less wrong it is
    chosen = []
    for validation in (good, bad):
        record = Baseline.of(pa.concat_tables([train, validation, test]), "test", CLASS_NAMES).record
        assert record is not None
        assert record.chosen_on == "validation"
        chosen.append(record.regularisation)
    assert chosen[0] > chosen[1] == min(STRENGTHS)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_without_other_images_to_choose_on_regularisation_is_fixed(split: str) -> None:
    record = Baseline.of(
        pa.concat_tables([tinted("train", every(9)), tinted(split, every(5))]), split, CLASS_NAMES
    ).record
    assert record is not None
    assert (record.regularisation, record.chosen_on) == (DEFAULT_STRENGTH, None)


def test_labels_of_the_asked_split_have_no_say_in_what_is_predicted() -> None:
    train, test = tinted("train", every(12)), tinted("test", every(5))
    wrong = relabelled(test, ["liver"] * test.num_rows)
    one, other = (Baseline.of(pa.concat_tables([train, rows]), "test", CLASS_NAMES).rows for rows in (test, wrong))
    assert one["predicted"].equals(other["predicted"])
    assert one["confidence"].equals(other["confidence"])


def test_training_takes_a_bounded_number_of_images_evenly_from_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.evaluation.checks.colour_baseline.MOST_TRAINING_IMAGES", 20)
    fitted: list[list[int]] = []
    fit = LogisticRegression.fit
    monkeypatch.setattr(
        LogisticRegression, "fit", lambda self, x, y: (fitted.append(np.bincount(y).tolist()), fit(self, x, y))[1]
    )
    train = tinted("train", {"liver": 100, "lung": 50, "skin": 3})
    record = Baseline.of(pa.concat_tables([train, tinted("test", every(4))]), "test", CLASS_NAMES).record
    assert record is not None
    assert record.training_images == 20
    assert [sorted(counts) for counts in fitted] == [[3, 8, 9]]


def test_a_class_without_training_images_is_never_predicted() -> None:
    table = pa.concat_tables([tinted("train", {"liver": 9, "skin": 9}), tinted("test", every(6))])
    baseline = Baseline.of(table, "test", CLASS_NAMES)
    assert set(baseline.rows["predicted"].to_pylist()) == {"liver", "skin"}
    assert baseline.record is not None
    assert baseline.record.accuracy <= 2 / 3


def test_intervals_keep_groups_together() -> None:
    train = tinted("train", {"liver": 9, "skin": 9})  # so that it is wrong for a third of each group, all of lung
    test = tinted("test", every(10), group="slide")
    grouped, alone = (
        Baseline.of(pa.concat_tables([train, rows]), "test", CLASS_NAMES).record
        for rows in (test, tinted("test", every(10)))
    )
    assert grouped is not None
    assert alone is not None
    assert grouped.interval == pytest.approx((2 / 3, 2 / 3))
    low, high = alone.interval
    assert low < 0.6
    assert high > 0.75


@pytest.mark.parametrize(
    ("train", "asked", "split"),
    [
        (every(5), every(5), "train"),
        ({"skin": 5}, every(5), "test"),
        (every(5), {}, "test"),
    ],
)
def test_there_is_no_baseline_where_nothing_can_be_learnt_or_told(
    train: dict[str, int], asked: dict[str, int], split: str
) -> None:
    baseline = Baseline.of(pa.concat_tables([tinted("train", train), tinted("test", asked)]), split, CLASS_NAMES)
    assert baseline.record is None
    assert baseline.rows.equals(BASELINE_SCHEMA.empty_table())


def histograms_of(descriptors: pa.Table) -> np.ndarray:
    return np.array(descriptors["histogram"].to_pylist())


def test_colours_are_cross_validated_by_models_that_have_not_seen_the_image() -> None:
    images, folds = tinted("train", every(10)), np.tile([0, 1, 2, 3, -1], 6)
    found = cross_validated_colours(images, histograms_of(images), folds, CLASS_NAMES)
    labels = np.array([CLASS_NAMES.index(label) for label in images["label"].to_pylist()])
    assert (np.isnan(found).all(axis=1) == (folds == -1)).all()
    assert (found.argmax(axis=1) == labels)[folds != -1].mean() >= 0.9


def test_what_is_said_of_a_fold_does_not_depend_on_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.evaluation.checks.colour_baseline.STRENGTHS", (1.0,))  # which all folds choose together
    images, folds = tinted("train", every(10)), np.tile(range(5), 6)
    names = np.array(images["label"].to_pylist())
    names[folds == 2] = np.roll(names[folds == 2], 2)
    found, other = (
        cross_validated_colours(some, histograms_of(images), folds, CLASS_NAMES)
        for some in (images, relabelled(images, names.tolist()))
    )
    np.testing.assert_array_equal(found[folds == 2], other[folds == 2])
    assert not np.allclose(found[folds == 1], other[folds == 1])
