"""Plots: PNG and SVG bytes of a sane size, the same for the same input, and nothing that a label could break."""

import xml.etree.ElementTree

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from seaborn.categorical import Beeswarm

from lib import plots
from lib.plots import canvas, per_class, swarm
from lib.plots.beeswarm import side_by_side
from lib.plots.curves import best_epoch

TWELVE = [f"{animal}_{organ}" for animal in ("human", "mouse") for organ in (
    "cerebellum", "fat_subscapula", "kidney", "muscle_tibia", "salivary_gland", "tongue")]  # fmt: skip
HOSTILE = ["<script>alert(1)</script>", "$x^{2}$ $", "肝臓", "", "a" * 200, "new\nline"]


def size_px(picture: plots.Picture) -> tuple[int, int]:
    """Height and width of the PNG, which the SVG has too."""
    png, svg = picture.png, xml.etree.ElementTree.fromstring(picture.svg)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.std() > 1, "the picture is blank"
    width, height = (float(svg.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    assert width / height == pytest.approx(image.shape[1] / image.shape[0], rel=0.01)
    return image.shape[0], image.shape[1]


def predictions(classes: int, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(7)
    actual = np.arange(images) % classes
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), actual] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return actual, probabilities.argmax(axis=1), probabilities


def history(epochs: int = 4) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    loss = 1.0 / epoch
    return pd.DataFrame(
        {"epoch": epoch, "loss": loss, "accuracy": 1 - loss / 2, "val_loss": loss + 0.1, "val_accuracy": 0.5}
    )


def draw_all(names: list[str], images: int) -> list[plots.Picture]:
    actual, predicted, probabilities = predictions(len(names), images)
    confidence = probabilities.max(axis=1)
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (actual, predicted), 1)
    rows = [{"class_name": name, "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 5} for name in names]
    return [
        plots.confusion_matrix(matrix, names),
        plots.predicted_scatter(actual, predicted, confidence, names),
        plots.predicted_swarm(actual, predicted, probabilities, names),
        plots.per_class_bars(rows),
    ]


@pytest.mark.parametrize("names", [TWELVE, HOSTILE, ["a", "b"]], ids=["twelve", "hostile", "two"])
def test_every_plot_of_predictions_is_a_png_that_fits_a_page(names: list[str]) -> None:
    for picture in draw_all(names, 60):
        height, width = size_px(picture)
        assert 200 <= height <= 2600
        assert 400 <= width <= 2600
        assert len(picture.png) < 500_000
        assert len(picture.svg) < 500_000


def test_a_hundred_classes_stay_within_the_widest_picture() -> None:
    actual, predicted, probabilities = predictions(100, 300)
    names = [f"human_fat_subscapula_{index:03d}" for index in range(100)]
    picture = plots.predicted_swarm(actual, predicted, probabilities, names)
    assert canvas.WIDEST_PX * 0.9 <= size_px(picture)[1] <= canvas.WIDEST_PX + 60


def test_the_same_predictions_give_the_same_bytes() -> None:
    assert draw_all(TWELVE[:3], 30) == draw_all(TWELVE[:3], 30)


def test_another_seed_moves_the_marks() -> None:
    actual, predicted, probabilities = predictions(3, 30)
    confidence = probabilities.max(axis=1)
    drawn = [plots.predicted_scatter(actual, predicted, confidence, TWELVE[:3], seed=seed) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    "table",
    [history(), history(1), history().drop(columns=["val_loss", "val_accuracy"]), history().assign(val_loss=np.nan)],
    ids=["usual", "one epoch", "no validation", "validation is NaN"],
)  # fmt: skip
def test_curves_are_drawn_with_and_without_validation(table: pd.DataFrame) -> None:
    assert size_px(plots.curves(table))[1] > 1000


def test_the_best_epoch_is_the_one_with_the_lowest_validation_loss() -> None:
    table = history().assign(val_loss=[0.9, 0.3, np.nan, 0.4])
    assert best_epoch(table) == (2, "validation loss")


def test_without_validation_the_best_epoch_has_the_lowest_training_loss() -> None:
    assert best_epoch(history()[["epoch", "loss"]]) == (4, "training loss")


def test_the_last_epoch_is_marked_where_none_was_chosen() -> None:
    table = history().assign(val_loss=[0.9, 0.3, 0.5, np.nan], keeps_last=True)
    assert best_epoch(table) == (3, "")
    assert "kept, epoch 3, the last" in plots.curves(table).svg.decode()
    phases = table.assign(phase=["head", "head", "fine_tune", "fine_tune"], keeps_last=[True, True, False, False])
    assert best_epoch(phases.assign(val_loss=[0.1, 0.4, 0.5, 0.3])) == (4, "validation loss")
    assert best_epoch(phases.assign(val_loss=[0.1, 0.2, 0.5, 0.3])) == (2, "")


def test_a_history_that_is_all_nan_has_no_best_epoch_and_is_still_drawn() -> None:
    table = history().assign(loss=np.nan, val_loss=np.nan)
    assert best_epoch(table) == (None, "")
    size_px(plots.curves(table))


def test_a_history_without_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match="no epoch"):
        plots.curves(history(0))


def test_undefined_measures_are_drawn_not_refused() -> None:
    row = {"class_name": "a", "precision": None, "recall": float("nan"), "f1": 0.0, "support": 0}
    size_px(plots.per_class_bars([row]))


def captured(monkeypatch: pytest.MonkeyPatch, module: object) -> list[Figure]:
    figures: list[Figure] = []

    def keep(figure: Figure, *written: plots.Lettering) -> plots.Picture:
        figures.append(figure)
        return canvas.to_picture(figure, *written)

    monkeypatch.setattr(module, "to_picture", keep)
    return figures


def test_swarm_marks_keep_their_height_and_do_not_hide_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = captured(monkeypatch, swarm)
    heights = np.array([0.9, 0.9, 0.9, 0.2])
    probabilities = np.stack([heights, 1 - heights], axis=1)
    plots.predicted_swarm(np.zeros(4, int), np.array([0, 0, 0, 1]), probabilities, ["a", "b"])
    (marks,) = [c for c in figures[0].axes[0].collections if len(np.asarray(c.get_offsets())) == 4]
    x, y = np.asarray(marks.get_offsets()).T
    np.testing.assert_allclose(y, heights)
    assert len(set(np.round(x[:3], 6))) == 3
    assert len(marks.get_paths()[0].vertices) != len(marks.get_paths()[3].vertices), "wrong has another shape"


@example(heights=[1 / 6, 7 / 6, 1.5, 11 / 6], diameter=2 / 3)  # there is as much room on the left as on the right
@example(heights=np.random.default_rng(0).uniform(0, 60, 300).tolist(), diameter=5.0)
@given(heights=st.lists(st.floats(0, 400), min_size=1, max_size=60), diameter=st.floats(1.5, 30))
def test_marks_of_a_swarm_lie_where_seaborn_puts_them_to_the_last_bit(heights: list[float], diameter: float) -> None:
    rising = np.sort(heights)
    discs = np.stack([np.full(len(rising), 311.7), rising, np.full(len(rising), diameter / 2)], axis=1)
    expected = Beeswarm().beeswarm(discs)[:, 0]
    np.testing.assert_array_equal(side_by_side(rising, 311.7, diameter), expected)


@pytest.mark.parametrize("images", [1, 2, 300])
def test_marks_lie_side_by_side_in_the_picture_that_is_drawn_last(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    figures = captured(monkeypatch, swarm)
    actual, predicted, probabilities = predictions(2, images)
    plots.predicted_swarm(actual, predicted, probabilities, ["a", "b"])
    axes = figures[0].axes[0]
    for marks in (drawn for drawn in axes.collections if isinstance(drawn, PathCollection)):
        centres = np.asarray(axes.transData.transform(np.asarray(marks.get_offsets())))
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)[~np.eye(len(centres), dtype=bool)]
        assert (apart >= np.sqrt(marks.get_sizes()[0]) * figures[0].dpi / 72 * (1 - 1e-9)).all()


def test_a_class_too_crowded_for_a_swarm_is_spread_and_the_axis_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = captured(monkeypatch, swarm)
    actual = np.r_[np.zeros(2000, int), np.ones(3, int)]
    probabilities = np.full((2003, 2), 0.5)
    plots.predicted_swarm(actual, np.zeros_like(actual), probabilities, ["crowded", "roomy"])
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["~ crowded", "roomy"]
    assert "too many images for a swarm" in axes.get_xlabel()


def test_a_roomy_swarm_says_nothing_about_spreading(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = captured(monkeypatch, swarm)
    actual, predicted, probabilities = predictions(2, 20)
    plots.predicted_swarm(actual, predicted, probabilities, ["a", "b"])
    assert figures[0].axes[0].get_xlabel() == "Actual class"


def test_text_in_an_svg_is_text_and_neither_date_nor_program_is_in_it() -> None:
    svg = plots.confusion_matrix(np.eye(12, dtype=int), TWELVE).svg.decode()
    assert ">human_cerebellum<" in svg
    assert "matplotlib.org" not in svg
    assert "dc:date" not in svg


def test_hostile_class_names_are_no_markup_in_an_svg() -> None:
    for picture in draw_all(HOSTILE, 30):
        assert b"<script" not in picture.svg


def test_five_thousand_marks_become_an_image_inside_an_svg_of_a_megabyte_at_most() -> None:
    actual, predicted, probabilities = predictions(12, 5000)
    pictures = [
        plots.predicted_scatter(actual, predicted, probabilities.max(axis=1), TWELVE),
        plots.predicted_swarm(actual, predicted, probabilities, TWELVE),
    ]
    for picture in pictures:
        assert len(picture.svg) < 1_000_000
        assert b"<image" in picture.svg
        assert size_px(picture)


def test_a_few_marks_stay_sharp_at_any_size() -> None:
    actual, predicted, probabilities = predictions(3, 60)
    assert b"<image" not in plots.predicted_scatter(actual, predicted, probabilities.max(axis=1), TWELVE[:3]).svg


def test_intervals_are_drawn_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = captured(monkeypatch, per_class)
    known = {
        "class_name": "a",
        "precision": 0.5,
        "recall": 0.4,
        "f1": 0.45,
        "support": 9,
        "recall_interval": [0.2, 0.7],
    }
    plots.per_class_bars([known, known | {"recall_interval": None, "recall": None}])
    (drawn,) = [lines for lines in figures[0].axes[0].collections if lines.get_zorder() == 3]
    ((start, end),) = np.array(drawn.get_segments())
    assert (start[0], end[0]) == (0.2, 0.7)
    assert start[1] == end[1] == pytest.approx(0.0), "the middle bar of the upper class"


def test_an_index_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        plots.predicted_scatter(np.array([2]), np.array([0]), np.array([0.5]), ["a", "b"])


def test_a_matrix_of_another_size_than_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="one row a class"):
        plots.confusion_matrix(np.ones((2, 3), int), ["a", "b"])


def test_the_wilson_interval_is_the_one_of_the_textbook() -> None:
    # 57 of 60: p = 0.95, z = 1.96; (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert plots.wilson_interval(57, 60) == pytest.approx((0.8630, 0.9829), abs=1e-4)
    assert plots.wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert plots.wilson_interval(0, 0) == (0.0, 1.0)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_holds_the_share_and_mirrors(trial: tuple[int, int]) -> None:
    successes, trials = trial
    low, high = plots.wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    assert plots.wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 3"):
        plots.wilson_interval(4, 3)
