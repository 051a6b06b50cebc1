"""The Projector as a person uses it: TensorBoard on the folder of an evaluation, in a real browser."""

import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Frame, Page, expect

from lib.projector import ProjectorPoints, projector_files
from lib.projector.verification import AS_USERS_DO, tensorboard
from tests.fakes.jobs import wait_for

COUNT = 300
COLOURS = {"liver": (255, 0, 255), "lung": (0, 255, 255), "skin": (255, 255, 0)}
HUES = {"liver": 150, "lung": 90, "skin": 30}
"""Of these colours, as OpenCV counts them: half degrees."""
FEW_PIXELS = 300


@pytest.fixture(scope="module")
def points() -> ProjectorPoints:
    """Three classes in no order, far apart, each with pictures in its colour; some are predicted wrongly."""
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    classes = rng.permutation(COUNT) % 3  # in turns, a picture from a wrong row would often have the right colour
    labels = [names[number] for number in classes]
    predicted = [names[(number + (place % 10 == 0)) % 3] for place, number in enumerate(classes)]
    return ProjectorPoints(
        embeddings=(np.eye(3, 64)[classes] * 10 + rng.normal(size=(COUNT, 64))).astype(np.float32),
        labels=labels,
        predicted=predicted,
        confidence=rng.uniform(0.4, 1, COUNT).astype(np.float32),
        paths=[f"test/{label}/{number}.tif" for number, label in enumerate(labels)],
        thumbnails=[np.full((90, 90, 3), COLOURS[label], np.uint8) for label in labels],
    )


@pytest.fixture(scope="module")
def address(points: ProjectorPoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TensorBoard on a folder that also holds what else is in an evaluation."""
    evaluation = tmp_path_factory.mktemp("evaluation")
    for folder in ("projector", "plots", "predictions"):
        (evaluation / folder).mkdir()
    for name, content in projector_files(points).items():
        (evaluation / "projector" / name).write_bytes(content)
    (evaluation / "plots" / "map_pca.svg").write_text("<svg/>")
    (evaluation / "predictions" / "00000000.parquet").write_bytes(b"PAR1")
    (evaluation / "evaluation.json").write_text("{}")
    with tensorboard(evaluation, AS_USERS_DO) as url:
        yield url


def coloured_pixels(page: Page, frame: Frame, name: str) -> dict[str, np.ndarray]:
    """By class, the places (x, y) of the pixels on the canvas in the colour of its pictures."""
    picture = frame.locator("#scatter canvas").first.screenshot()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")
    bgr = cv2.imdecode(np.frombuffer(BytesIO(picture).getvalue(), np.uint8), cv2.IMREAD_COLOR)
    hue, saturation, _ = cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV))
    strong = saturation > 60
    masks = {label: strong & (np.abs(hue.astype(int) - HUES[label]) <= 5) for label in COLOURS}
    return {label: np.argwhere(mask)[:, ::-1] for label, mask in masks.items()}


def places_of(frame: Frame, kind: str) -> set[tuple[float, ...]]:
    """The different finite places in three dimensions that the page has computed for the points of a map."""
    script = (
        "(page, kind) => page.dataSet.points.map(point => [0, 1, 2].map(axis => point.projections[`${kind}-${axis}`]))"
    )
    places = np.array(frame.locator("vz-projector").evaluate(script, kind), np.float64)
    return {tuple(place) for place in places[np.isfinite(places).all(axis=1)]}


def wait_till_drawn(page: Page, frame: Frame, name: str, as_wanted: Callable[[dict[str, np.ndarray]], bool]) -> None:
    """Wait until the pixels on the canvas are as they should be: a map is drawn some time after it is computed."""
    wait_for(lambda: as_wanted(coloured_pixels(page, frame, name)), f"{name} is drawn")


def some_are_drawn(pixels: dict[str, np.ndarray]) -> bool:
    return sum(map(len, pixels.values())) > FEW_PIXELS


def classes_are_apart(pixels: dict[str, np.ndarray]) -> bool:
    """Each class is drawn, and nearly all its pixels are nearest to its own middle: points have their own pictures."""
    if not all(len(places) > FEW_PIXELS for places in pixels.values()):
        return False
    middles = np.array([np.median(places, axis=0) for places in pixels.values()])
    nearest = [np.linalg.norm(places[:, None] - middles[None], axis=2).argmin(axis=1) for places in pixels.values()]
    return all((found == number).mean() > 0.95 for number, found in enumerate(nearest))


def test_the_projector_shows_the_points_and_computes_maps(page: Page, address: str) -> None:
    page.goto(f"{address}#projector")
    inner = page.wait_for_selector("iframe").content_frame().wait_for_selector("iframe").content_frame()
    assert inner is not None
    frame: Frame = inner

    expect(frame.locator(".numDataPoints")).to_have_text(str(COUNT))
    expect(frame.get_by_text("Points: 300")).to_be_visible()
    expect(frame.get_by_text("Total variance described")).to_be_visible()
    wait_till_drawn(page, frame, "pca", classes_are_apart)

    frame.locator("#tsne-tab").click()
    iterations = frame.locator(".run-tsne-iter")
    page.wait_for_function("element => Number(element.innerText) >= 30", arg=iterations.element_handle())
    wait_till_drawn(page, frame, "tsne", some_are_drawn)
    wait_for(lambda: len(places_of(frame, "tsne")) == COUNT, "t-SNE has a place for each point")
    frame.locator(".run-tsne").click()  # which now says Stop

    frame.locator("#umap-tab").click()
    wait_for(lambda: len(places_of(frame, "umap")) == COUNT, "UMAP has a place for each point")
    expect(frame.locator("#run-umap")).to_be_enabled()  # again, once all epochs are over
    wait_till_drawn(page, frame, "umap", some_are_drawn)

    frame.locator("vz-projector-bookmark-panel [data-index='0'][icon='radio-button-unchecked']").click()
    legend = frame.locator("vz-projector-legend")
    for label in COLOURS:
        expect(legend.get_by_text(label)).to_be_visible()
    page.wait_for_timeout(500)
    coloured_pixels(page, frame, "coloured")  # for its screenshot: pictures now have the colours of their class
