"""Plots of probabilities, maps and heatmaps: what is drawn is what was computed, and labels can be read."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from lib import plots
from lib.plots import canvas, embedding, one_vs_rest
from lib.plots import heatmap_sheet as grad_cam
from lib.plots import reliability_diagram as calibration
from lib.plots import risk_coverage as abstention
from lib.plots.label_places import spread_labels
from lib.plots.palette import FEW_CLASSES, LOOKS, looks_apart

Figures = Callable[[object], list[Figure]]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Figures:
    """Keeps the figures of one module, which are otherwise gone once their bytes are made."""

    def capture(module: object) -> list[Figure]:
        figures: list[Figure] = []

        def keep(figure: Figure, *written: plots.Lettering) -> plots.Picture:
            figures.append(figure)
            return canvas.to_picture(figure, *written)

        monkeypatch.setattr(module, "to_picture", keep)
        return figures

    return capture


def predictions(classes: int, images: int, seed: int = 7) -> tuple[IntArray, FloatArray]:
    rng = np.random.default_rng(seed)
    actual = np.arange(images) % classes
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), actual] += 1.5
    probabilities = np.exp(logits)
    return actual, probabilities / probabilities.sum(axis=1, keepdims=True)


def names(count: int) -> list[str]:
    return [f"class_{index:03d}" for index in range(count)]


def legend_of(figure: Figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_the_areas_in_the_legends_are_those_of_scikit_learn_worst_first(captured: Figures) -> None:
    figures = captured(one_vs_rest)
    actual, probabilities = predictions(3, 90)
    plots.roc_curves(actual, probabilities, names(3))
    plots.pr_curves(actual, probabilities, names(3))
    for figure, score in zip(figures, (roc_auc_score, average_precision_score), strict=True):
        areas = [score(actual == index, probabilities[:, index]) for index in range(3)]
        expected = [f"{area:.3f}  {name}" for area, name in sorted(zip(areas, names(3), strict=True))]
        shown = [line for line in legend_of(figure) if "chance" not in line]
        assert shown == [*expected, f"{np.mean(areas):.3f}  mean of 3 classes"]


@pytest.mark.parametrize("seed", range(3))
def test_the_area_below_every_curve_and_the_mean_is_the_area_that_is_stated(seed: int) -> None:
    actual, probabilities = predictions(4, 120, seed)
    for measure, tolerance in ((one_vs_rest._roc, 1e-9), (one_vs_rest._precision_recall, 1e-9)):
        for curve in one_vs_rest._curves(actual, probabilities, names(4), measure):
            assert np.trapezoid(curve.y, curve.x) == pytest.approx(curve.area, abs=tolerance)
            assert np.trapezoid(curve.on_grid, one_vs_rest.GRID) == pytest.approx(curve.area, abs=0.01)


def test_a_class_that_no_image_is_of_has_no_curve_and_the_axis_says_so(captured: Figures) -> None:
    figures = captured(one_vs_rest)
    actual, probabilities = predictions(3, 60)
    plots.roc_curves(np.where(actual == 2, 0, actual), probabilities, names(3))
    assert not any("class_002" in line for line in legend_of(figures[0]))
    assert "1 of 3 classes left out" in figures[0].axes[0].get_xlabel()


def test_a_single_image_gives_pictures_that_say_there_is_nothing_to_compare(captured: Figures) -> None:
    figures = captured(one_vs_rest)
    actual, probabilities = predictions(3, 1)
    plots.roc_curves(actual, probabilities, names(3))
    plots.pr_curves(actual, probabilities, names(3))
    for figure in figures:
        assert [text.get_text() for text in figure.axes[0].texts] == ["no class has both its own and other images"]


def test_of_a_hundred_classes_only_the_three_worst_and_the_mean_are_named(captured: Figures) -> None:
    figures = captured(one_vs_rest)
    actual, probabilities = predictions(100, 500)
    plots.roc_curves(actual, probabilities, names(100))
    areas = [roc_auc_score(actual == index, probabilities[:, index]) for index in range(100)]
    worst = [f"{areas[index]:.3f}  class_{index:03d}" for index in np.argsort(areas, kind="stable")[:3]]
    lines = legend_of(figures[0])
    assert lines[:5] == ["0.500  chance", "middle half of 100 classes", *worst]
    assert len(lines) == 6


def test_probabilities_of_another_shape_are_refused() -> None:
    actual, probabilities = predictions(3, 9)
    with pytest.raises(ValueError, match=r"expected \(9, 4\)"):
        plots.roc_curves(actual, probabilities, names(4))


SURE = (np.array([0.9, 0.9, 0.5, 1.0]), np.array([True, False, True, True]))
MILD = (np.array([0.7, 0.7, 0.5, 0.8]), np.array([True, False, True, True]))


def test_reliability_states_the_calibration_error_computed_by_hand(captured: Figures) -> None:
    figures = captured(calibration)
    plots.reliability(None, SURE, bins=10)
    # bins: 0.5 (1 image, gap 0.5), 0.9 to 1 (3 images, 2 right, confidence 2.8): (0.5 + 0.8) / 4
    assert figures[0].axes[0].get_title(loc="left") == "Expected calibration error 0.325"
    assert len(figures[0].axes) == 2


def test_before_scaling_is_on_the_left_and_after_it_on_the_right(captured: Figures) -> None:
    figures = captured(calibration)
    plots.reliability(SURE, MILD, bins=10)
    # after: 0.5 (gap 0.5), 0.7 (2 images, 1 right, confidence 1.4), 0.8 (gap 0.2): (0.5 + 0.4 + 0.2) / 4
    titles = [axes.get_title(loc="left") for axes in figures[0].axes[:2]]
    errors = ["Before scaling: expected calibration error 0.325", "After scaling: expected calibration error 0.275"]
    assert titles == errors


@pytest.mark.parametrize(
    ("confidence", "correct"),
    [([], []), ([0.5], [True, False]), ([1.5], [True]), ([float("nan")], [True])],
    ids=["empty", "lengths", "above 1", "NaN"],
)
def test_what_is_no_confidence_is_refused(confidence: list[float], correct: list[bool]) -> None:
    judged = np.array(confidence), np.array(correct, bool)
    with pytest.raises(ValueError, match="confidence"):
        plots.reliability(None, judged)
    with pytest.raises(ValueError, match="confidence"):
        plots.reliability(judged, SURE)
    with pytest.raises(ValueError, match="confidence"):
        plots.confidence_histogram(*judged)


def test_the_histogram_counts_right_above_and_wrong_below_with_their_medians(captured: Figures) -> None:
    figures = captured(calibration)
    plots.confidence_histogram(*SURE)
    above, below = figures[0].axes
    assert above.get_title(loc="left") == "3 images predicted right"
    assert below.get_title(loc="left") == "1 image predicted wrong"
    assert [bar.get_height() for bar in above.patches if bar.get_height()] == [1, 1, 1]  # type: ignore[attr-defined]
    assert [text.get_text() for axes in (above, below) for text in axes.texts] == ["median 90%", "median 90%"]


def test_without_a_mistake_the_lower_histogram_says_so(captured: Figures) -> None:
    figures = captured(calibration)
    plots.confidence_histogram(SURE[0], np.ones(4, bool))
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["no image"]


COVERAGE, ACCURACY = np.array([0.25, 0.5, 0.75, 1.0]), np.array([1.0, 1.0, 0.67, 0.75])


def threshold(min_confidence: float, answered: float, accuracy: float | None) -> dict[str, float | None]:
    return {"min_confidence": min_confidence, "answered": answered, "accuracy": accuracy}


def test_thresholds_are_marked_where_they_lead_and_touching_ones_share_a_label(captured: Figures) -> None:
    figures = captured(abstention)
    rows = [threshold(0.9, 0.25, 1.0), threshold(0.5, 1.0, 0.75), threshold(0.0, 1.0, 0.75), threshold(0.99, 0, None)]
    plots.abstention_curve(COVERAGE, ACCURACY, rows)
    axes = figures[0].axes[0]
    assert axes.get_title(loc="left") == "75.0% right when all are answered"
    assert sorted(text.get_text() for text in axes.texts) == ["≥ 0% to 50%", "≥ 90%"]
    marks = next(line for line in axes.lines if line.get_marker() == "D")
    np.testing.assert_allclose(marks.get_xydata(), [(1, 0.75), (1, 0.75), (0.25, 1)])


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_an_abstention_curve_of_a_single_image_is_drawn_without_thresholds_too(accuracy: float) -> None:
    assert plots.abstention_curve(np.array([1.0]), np.array([accuracy])).png.startswith(b"\x89PNG")


def test_coverage_and_accuracy_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        plots.abstention_curve(COVERAGE, ACCURACY[:3])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        plots.abstention_curve(COVERAGE, ACCURACY + 1)


def clusters(classes: int, images: int) -> tuple[FloatArray, IntArray, NDArray[np.bool_]]:
    rng = np.random.default_rng(3)
    actual = np.arange(images) % classes
    points = rng.uniform(-20, 20, (classes, 2))[actual] + rng.normal(size=(images, 2))
    return points, actual, rng.random(images) < 0.8


def test_wrong_marks_lie_in_front_and_have_another_shape_and_a_dark_outline(captured: Figures) -> None:
    figures = captured(embedding)
    points, actual, correct = clusters(3, 60)
    plots.embedding_map(points, actual, correct, names(3), "PCA")
    right, wrong = figures[0].axes[0].collections
    np.testing.assert_allclose(np.asarray(wrong.get_offsets()), points[~correct])
    assert wrong.get_zorder() > right.get_zorder()
    assert len(wrong.get_paths()[0].vertices) != len(right.get_paths()[0].vertices)
    assert {to_hex(edge) for edge in np.asarray(wrong.get_edgecolor())} == {canvas.INK.lower()}
    fills = [to_hex(fill) for fill in np.asarray(right.get_facecolor())]
    assert fills == [LOOKS[index].fill.lower() for index in actual[correct]]


def test_few_classes_are_named_in_a_legend_and_many_on_the_map(captured: Figures) -> None:
    figures = captured(embedding)
    for classes in (12, 13):
        plots.embedding_map(*clusters(classes, 130), names(classes), "PCA")
    few, many = figures
    assert legend_of(few)[2:] == names(12)
    assert not few.axes[0].texts
    assert legend_of(many) == ["predicted right", "predicted wrong"]
    assert [text.get_text() for text in many.axes[0].texts] == names(13)


def test_the_names_of_a_hundred_classes_do_not_overlap_on_the_map(captured: Figures) -> None:
    figures = captured(embedding)
    picture = plots.embedding_map(*clusters(100, 5000), [f"human_{name}" for name in names(100)], "UMAP")
    boxes = [text.get_window_extent() for text in figures[0].axes[0].texts]
    assert len(boxes) == 100
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
    assert len(picture.svg) < 1_100_000


@pytest.mark.parametrize(
    ("points", "correct"),
    [(np.zeros((0, 2)), []), (np.zeros((1, 3)), [True]), (np.array([[0, np.nan]]), [True]), (np.zeros((1, 2)), [])],
    ids=["empty", "three axes", "NaN", "lengths"],
)
def test_what_is_no_map_is_refused(points: FloatArray, correct: list[bool]) -> None:
    with pytest.raises(ValueError, match="points"):
        plots.embedding_map(points, np.zeros(len(points), int), np.array(correct, bool), ["a"], "PCA")


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 700)), min_size=1, max_size=25))
def test_labels_with_room_neither_overlap_nor_leave_the_picture(anchors: list[tuple[float, float]]) -> None:
    sizes = np.tile([60.0, 12.0], (len(anchors), 1))
    at = spread_labels(np.array(anchors), sizes, (900, 700))
    assert (at >= sizes / 2 - 1e-9).all()
    assert (at <= np.array([900, 700]) - sizes / 2 + 1e-9).all()
    gaps = np.abs(at[:, None] - at[None])
    apart = (gaps > np.array([60, 12]) - 0.5).any(axis=2)
    assert apart[~np.eye(len(at), dtype=bool)].all()


def test_labels_that_have_room_stay_where_they_belong() -> None:
    anchors = np.array([[100.0, 100.0], [300.0, 300.0]])
    np.testing.assert_allclose(spread_labels(anchors, np.full((2, 2), 20.0), (400, 400)), anchors, atol=0.1)


def test_twelve_classes_look_different_and_no_two_neighbours_of_many_look_the_same() -> None:
    assert len(set(LOOKS)) == len({look.fill for look in LOOKS}) == FEW_CLASSES == 12
    line = np.stack([np.arange(60.0), np.zeros(60)], axis=1)
    looks = looks_apart(line)
    assert all(looks[index] not in looks[max(index - 4, 0) : index] for index in range(60))


ORGANS = ["kidney", "tongue"]


def seen(size: int = 32, heat: float = 1.0) -> tuple[NDArray[np.uint8], FloatArray, str, str, float]:
    image = np.full((size, size, 3), (200, 60, 120), np.uint8)
    heatmap = np.zeros((4, 4))
    heatmap[0, 0] = heat
    return image, heatmap, "kidney", "tongue", 0.75


def test_the_overlay_is_brightest_where_the_heat_is_and_has_no_colour_of_the_image() -> None:
    row = grad_cam.Looked(*seen())
    overlay = grad_cam._overlay(row.image, grad_cam._heat_of(row))
    assert overlay.shape == row.image.shape
    luminance = cv2.cvtColor(overlay, cv2.COLOR_RGB2GRAY)
    assert luminance[:4, :4].mean() > luminance[-4:, -4:].mean() + 40
    grey = cv2.cvtColor(cv2.cvtColor(row.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    np.testing.assert_array_equal(overlay, grad_cam._overlay(grey, grad_cam._heat_of(row)))


def test_a_heatmap_without_any_heat_is_drawn_as_none() -> None:
    assert not grad_cam._heat_of(grad_cam.Looked(*seen(heat=0.0))).any()
    assert not grad_cam._heat_of(grad_cam.Looked(*seen(heat=-3.0))).any()


def test_a_sheet_names_actual_and_predicted_class_with_a_sign_beside_the_colour(captured: Figures) -> None:
    figures = captured(grad_cam)
    image, heatmap, _, _, _ = seen()
    plots.grad_cam_sheet([seen(), (image, heatmap, "kidney", "kidney", 0.5)], ORGANS)
    texts = [text.get_text() for axes in figures[0].axes for text in axes.texts]
    assert texts[:4] == ["✗ tongue, 75%", "actual: kidney", "✓ kidney, 50%", "actual: kidney"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected 1 to 12"),
        ([seen()] * 13, "expected 1 to 12"),
        ([(np.zeros((4, 4, 3)), *seen()[1:])], "uint8"),
        ([(seen()[0], np.full((4, 4), np.nan), *seen()[2:])], "finite"),
        ([(*seen()[:2], "kidney", "liver", 0.5)], "'liver', which is no class"),
    ],
    ids=["none", "thirteen", "float image", "NaN heat", "unknown class"],
)
def test_what_is_no_sheet_is_refused(rows: list[grad_cam.Looked], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.grad_cam_sheet(rows, ORGANS)


@pytest.mark.slow
def test_the_same_evaluation_gives_the_same_bytes() -> None:
    actual, probabilities = predictions(3, 60)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == actual

    def draw() -> list[plots.Picture]:
        return [
            plots.roc_curves(actual, probabilities, names(3)),
            plots.pr_curves(actual, probabilities, names(3)),
            plots.reliability((confidence, correct), (confidence**2, correct)),
            plots.confidence_histogram(confidence, correct),
            plots.abstention_curve(COVERAGE, ACCURACY, [threshold(0.9, 0.25, 1.0)]),
            plots.embedding_map(*clusters(13, 60), names(13), "UMAP"),
            plots.grad_cam_sheet([seen()], ORGANS),
        ]

    assert draw() == draw()
