"""The report as a person uses it, with mouse and keyboard, in a real browser and without a network."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from lib import plots
from lib.evaluation.measures.slices import Answers, slice_table
from lib.folders.evaluation import write_slices
from lib.report.page import write_report
from lib.storage.location import Location
from tests.fakes.evaluations import HOSTILE, Lab
from tests.fakes.jobs import wait_for

CLASSES = ("liver", HOSTILE, "skin_and_subcutaneous_tissue")
COLOURS = ((40, 40, 220), (40, 200, 40), (220, 60, 40))
FOREIGN = ("肝臓", "かんぞうのくみあわせとうでのそしき", "ตับอ่อน", "यकृत्", "כבד", "간 <조직>")
WRONG = {1, 2, 4, 7, 10}
"""1, 4, 7 and 10 are of the second class and taken for the third; 2 is of the third and taken for the first."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report on 30 images of three classes, each in a colour of its own, with everything an evaluation can have."""
    squares = [np.full((64, 64, 3), colour, np.uint8) for colour in COLOURS]
    jpegs = [cv2.imencode(".jpg", square)[1].tobytes() for square in squares]
    lab = Lab(tmp_path_factory.mktemp("lab"), images=30, class_names=CLASSES, jpegs=jpegs)
    return report_of(lab, WRONG, {5})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report on 5,000 images of 100 classes."""
    rng = np.random.default_rng(0)
    blots = [cv2.resize(rng.integers(0, 255, (24, 24, 3), np.uint8), (180, 180)) for _ in range(200)]
    jpegs = [cv2.imencode(".jpg", blot)[1].tobytes() for blot in blots]
    names = [f"organ_{number:03d}" for number in range(100)]
    lab = Lab(tmp_path_factory.mktemp("large"), images=5000, class_names=names, jpegs=jpegs)
    return report_of(lab, set(range(0, 5000, 4)), set(range(0, 5000, 3)))


def report_of(lab: Lab, *wrong: set[int]) -> str:
    lab.dataset()
    checks, folders = lab.checks([(0, 3), (1, 5)]), []
    for name, missed in zip(("cnn", "vgg16"), wrong, strict=True):
        lab.model(name)
        folders.append(lab.evaluation(name, missed, maps=lab.layouts(), checks=checks))
        lab.label_errors(folders[-1], [1, 2])
        answers = Answers(lab.actual(), lab.probabilities(missed), [None] * lab.images)
        ages = [f"{20 + number % 30}" for number in range(lab.images)]
        sites = [("Kiel", "Bonn")[number % 3 == 1] for number in range(lab.images)]
        write_slices(slice_table(answers, {"site": sites, "age": ages}, 100), Location(folders[-1]))
    write_report(lab.config(*folders))
    return (lab.root / "report/report.html").as_uri()


@pytest.fixture
def model(page: Page, address: str) -> Locator:
    """The section of the first model, on a page that has no error and asks the network for nothing."""
    page.goto(address)
    return page.locator("#model-1")


def test_a_table_is_sorted_by_the_heading_that_is_clicked(page: Page, model: Locator) -> None:
    table = model.locator("table.slices")

    def column(number: int) -> list[str]:
        return table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()

    images = table.get_by_role("button", name="Images")
    images.click()
    rising = [int(text) for text in column(3)]
    assert rising == sorted(rising)
    assert len(set(rising)) > 1
    expect(table.locator("thead th").nth(2)).to_have_attribute("aria-sort", "ascending")
    images.click()
    assert [int(text) for text in column(3)] == rising[::-1]
    table.get_by_role("button", name="Value").focus()
    page.keyboard.press("Enter")
    assert column(2)[-2:] == ["Bonn", "Kiel"]
    assert table.locator("[aria-sort]").count() == 1


def shown(model: Locator) -> int:
    return model.locator(".errors .gallery li:visible").count()


def cell(model: Locator, actual: int, predicted: int) -> Locator:
    return model.locator(f".matrix button[data-a='{actual}'][data-p='{predicted}']")


def until(page: Page, expression: str, argument: object = None) -> None:
    """Wait till something is true; `wait_for_function` would evaluate text in the page, which its policy forbids."""
    wait_for(lambda: bool(page.evaluate(expression, argument)), expression)


def place(model: Locator, point: int) -> dict[str, float]:
    """Where a point is drawn, from the data of the page as its reader would compute it."""
    return model.page.evaluate("point => { const [x, y] = maps[0].place(point); return { x, y }; }", point)


def test_a_click_on_a_cell_shows_its_images_alone_and_a_second_click_all(model: Locator) -> None:
    assert shown(model) == len(WRONG)
    chosen = cell(model, 1, 2)
    chosen.click()
    expect(chosen).to_have_attribute("aria-pressed", "true")
    assert shown(model) == 4
    expect(model.locator(".shown [role=status]")).to_have_text(
        f"4 mistakes: {HOSTILE} predicted as skin_and_subcutaneous_tissue."
    )
    chosen.click()
    expect(chosen).to_have_attribute("aria-pressed", "false")
    assert shown(model) == len(WRONG)


def test_the_other_models_gallery_stays_as_it_is(model: Locator) -> None:
    cell(model, 1, 2).click()
    assert shown(model.page.locator("#model-2")) == 1


def test_names_show_the_mistakes_of_their_row_or_column(model: Locator) -> None:
    model.locator(".matrix thead button[data-p='0']").click()
    assert shown(model) == 1
    expect(model.locator(".shown [role=status]")).to_have_text("1 mistake: predicted as liver.")
    model.locator(".matrix tbody button[data-a='1'][data-p='-1']").click()
    assert shown(model) == 4
    model.get_by_role("button", name="Show all").click()
    assert shown(model) == len(WRONG)
    expect(model.get_by_role("button", name="Show all")).to_be_hidden()


def test_what_is_right_is_singled_out_on_the_map(model: Locator) -> None:
    cell(model, 0, 0).click()
    expect(model.locator(".shown [role=status]")).to_have_text("10 of liver right; they are highlighted on the map.")
    lit = model.page.evaluate("[...Array(30).keys()].filter((point) => maps[0].lit(point))")
    assert lit == list(range(0, 30, 3))


def test_arrow_keys_walk_over_cells_with_images_and_escape_shows_all(model: Locator) -> None:
    keys = model.page.keyboard
    cell(model, 0, -1).focus()
    keys.press("ArrowRight")
    expect(cell(model, 0, 0)).to_be_focused()
    keys.press("ArrowDown")
    expect(cell(model, 2, 0)).to_be_focused()  # no image of the second class is taken for the first
    keys.press("ArrowRight")
    expect(cell(model, 2, 2)).to_be_focused()
    keys.press("ArrowUp")
    expect(cell(model, 1, 2)).to_be_focused()
    keys.press("Enter")
    assert shown(model) == 4
    keys.press("Escape")
    assert shown(model) == len(WRONG)
    keys.press("Home")
    expect(cell(model, 1, -1)).to_be_focused()
    assert model.locator(".matrix button[tabindex='0']").count() == 1


def test_cells_can_be_shown_as_shares_and_say_both_to_a_screen_reader(model: Locator) -> None:
    model.get_by_text("% of the row").click()
    expect(cell(model, 1, 2)).to_have_text("40")
    expect(cell(model, 1, 2)).to_have_attribute(
        "aria-label", f"{HOSTILE} predicted as skin_and_subcutaneous_tissue: 4 images, 40 % of the row"
    )
    model.get_by_text("images", exact=True).click()
    expect(cell(model, 1, 2)).to_have_text("4")


def test_thumbnails_are_those_of_their_images(model: Locator) -> None:
    for image in model.locator(".errors .gallery li").all():
        image.scroll_into_view_if_needed()
        colour = image.locator("img").evaluate(
            "async (image) => { await image.decode(); const canvas = document.createElement('canvas');"
            "const pen = canvas.getContext('2d'); pen.drawImage(image, 0, 0);"
            "return [...pen.getImageData(20, 20, 1, 1).data].slice(0, 3); }"
        )
        expected = COLOURS[int(image.get_attribute("data-a") or -1)][::-1]
        assert np.abs(np.subtract(colour, expected)).max() <= 6


@pytest.mark.parametrize("point", [2, 6])
def test_hover_shows_the_image_its_label_and_what_was_said(model: Locator, point: int) -> None:
    canvas = model.locator(".stage > canvas")
    canvas.scroll_into_view_if_needed()
    canvas.hover(position=place(model, point))
    card = model.locator(".card")
    expect(card).to_be_visible()
    said = CLASSES[0]
    texts = card.locator("b").all_inner_texts()
    assert texts == [CLASSES[point % 3], said]
    expect(card.locator(".path")).to_have_text(f"test/{CLASSES[point % 3]}/{point:04d}.tif")
    expect(card).to_contain_text("90.0 %")
    expect(card.locator("canvas")).to_be_visible()
    until(
        model.page,
        "colour => { const pen = document.querySelector('.card canvas').getContext('2d');"
        "const { data } = pen.getImageData(80, 80, 1, 1);"
        "return colour.every((level, channel) => Math.abs(level - data[channel]) <= 6); }",
        COLOURS[point % 3][::-1],
    )
    canvas.hover(position={"x": 2, "y": 2})
    expect(card).to_be_hidden()


def test_arrow_keys_go_from_image_to_image(model: Locator) -> None:
    canvas, keys, card = model.locator(".stage > canvas"), model.page.keyboard, model.locator(".card")
    model.locator(".map .choices input").first.focus()
    keys.press("Tab")
    expect(canvas).to_be_focused()
    expect(card).to_be_visible()
    before = model.page.evaluate("maps[0].current")
    keys.press("ArrowLeft")
    after = model.page.evaluate("maps[0].current")
    assert place(model, after)["x"] < place(model, before)["x"]
    keys.press("Escape")
    expect(card).to_be_hidden()


def test_a_class_of_the_legend_is_singled_out(model: Locator) -> None:
    key = model.locator(".legend button").nth(1)
    key.click()
    expect(key).to_have_attribute("aria-pressed", "true")
    assert model.page.evaluate("[...Array(30).keys()].filter((point) => maps[0].lit(point))") == list(range(1, 30, 3))
    key.click()
    expect(key).to_have_attribute("aria-pressed", "false")
    assert model.page.evaluate("maps[0].wanted") is None


def test_every_map_can_be_chosen_and_draws_all_classes(model: Locator) -> None:
    names = model.locator(".map .choices label")
    assert names.all_inner_texts() == ["UMAP", "t-SNE", "principal components"]
    places = []
    for number in range(3):
        names.nth(number).click()
        expect(names.nth(number).locator("input")).to_be_checked()
        places.append(place(model, 0))
        colours = model.locator(".stage > canvas").evaluate(
            "canvas => { const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
            "const found = new Set(); for (let i = 0; i < data.length; i += 4)"
            " if (data[i + 3] > 200) found.add(`${data[i] >> 4},${data[i + 1] >> 4},${data[i + 2] >> 4}`);"
            "return found.size; }"
        )
        assert colours > 20
    assert len({(round(one["x"]), round(one["y"])) for one in places}) == 3


def test_a_plot_opens_in_full_size_and_escape_closes_it(model: Locator) -> None:
    model.locator("figure.roc .zoom").click()
    expect(model.locator("figure.roc .close")).to_be_visible()
    model.page.keyboard.press("Escape")
    expect(model.locator("figure.roc .close")).to_be_hidden()


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(251, 250, 247)"), ("dark", "rgb(20, 23, 27)")])
@pytest.mark.parametrize("width", [1400, 390])
def test_light_and_dark_and_narrow_pages_fit_their_window(
    browser: Browser, address: str, scheme: str, paper: str, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(address)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cell(page.locator("#model-1"), 1, 2).click()
    assert shown(page.locator("#model-1")) == 4
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"report-{scheme}-{width}.png", full_page=True)
    page.close()


@pytest.mark.parametrize("width", [1400, 390])
def test_the_key_of_the_plots_is_above_them_and_fits_its_window(browser: Browser, tmp_path: Path, width: int) -> None:
    lab = Lab(tmp_path, class_names=FOREIGN)
    lab.dataset()
    lab.model("cnn")
    key = {f"class no. {number}": name for number, name in enumerate(FOREIGN, 1)}
    write_report(lab.config(lab.evaluation("cnn", {1, 2}, drawn_as=key)))
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "report/report.html").as_uri())
    entries = page.locator("#model-1 .key li")
    expect(entries).to_have_count(len(FOREIGN))
    expect(entries.nth(1)).to_have_text(f"class no. 2 {FOREIGN[1]}")
    boxes = [entry.bounding_box() for entry in entries.all()]
    below = page.locator("#model-1 .plots").bounding_box()
    assert below is not None
    assert all(box is not None and box["y"] + box["height"] <= below["y"] for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_names_in_any_script_are_text_in_an_svg_and_lie_inside_it(page: Page, tmp_path: Path) -> None:
    drawing = tmp_path / "confusion_matrix.svg"
    drawing.write_bytes(plots.confusion_matrix(np.eye(len(FOREIGN), dtype=int), FOREIGN).svg)
    page.goto(drawing.as_uri())
    outside = page.evaluate(
        "() => { const page = document.documentElement.getBoundingClientRect();"
        "return [...document.querySelectorAll('text')].filter((text) => { const box = text.getBoundingClientRect();"
        "return box.left < page.left || box.right > page.right || box.top < page.top || box.bottom > page.bottom; })"
        ".map((text) => text.textContent); }"
    )
    assert outside == []
    shown = page.evaluate("[...document.querySelectorAll('text')].map((text) => text.textContent)")
    assert {f"{name} (1)" for name in FOREIGN} <= {text.replace("\u200e", "") for text in shown}
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "names.png")


def test_the_page_prints_in_light_colours_with_its_thumbnails(browser: Browser, address: str, tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(address)
    page.evaluate("addEventListener('afterprint', () => { window.printed = true; })")
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    pdf = (tmp_path / "report.pdf").read_bytes()
    assert page.evaluate("window.printed")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 20
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    images = page.locator("img[data-thumbnail]")
    assert images.evaluate_all("images => images.every((image) => image.complete && image.naturalWidth === 64)")
    page.close()


@pytest.mark.slow
def test_a_report_on_5000_images_of_100_classes_is_small_and_stays_usable(page: Page, large: str) -> None:
    assert Path(large.removeprefix("file://")).stat().st_size < 15_000_000
    page.goto(large)
    until(page, "waiting.length === 0")
    model = page.locator("#model-1")
    name = model.locator(".matrix tbody th").nth(60)
    name.scroll_into_view_if_needed()
    expect(model.locator(".matrix thead th").nth(5)).to_be_in_viewport()  # sticky
    name.locator("button").click()
    assert 1 <= shown(model) <= 15
    canvas = model.locator(".stage > canvas")
    canvas.scroll_into_view_if_needed()
    model.get_by_role("button", name="Show all").click()
    canvas.scroll_into_view_if_needed()
    canvas.hover(position=place(model, 1))
    expect(model.locator(".card")).to_be_visible()
