"""The report: one offline page from three kinds of folders, honest about what its numbers cannot tell."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config.chain import ReportConfig
from lib.dataset.thumbnails import SIDE_PX
from lib.errors import DataError, SettingsError
from lib.evaluation.measures.slices import Answers, slice_table
from lib.evaluation.measures.stakes import Stakes
from lib.folders.checks import MOST_SHOWN, write_near_duplicates
from lib.folders.choice import TriedModel
from lib.folders.dataset import MOST_REFUSED, find_overlap
from lib.folders.evaluation import EvaluationRecord, LeftOutSite, Metrics, ProjectorRecord, SiteRecord, write_slices
from lib.folders.manifest import Counts
from lib.folders.model import BestEpoch, SweepRecord
from lib.folders.predictions import Mistake
from lib.folders.report_folder import DatasetSummary, ReportRecord
from lib.folders.sweep import Leaderboard, TrialResult
from lib.plots.tiles import MOST_SPRITE_PX, TILE_SIDES_PX, tile_side
from lib.report.collect import MOST_MISTAKES, choose_mistakes, collect
from lib.report.doubts.model_doubts import chance_calibration_error
from lib.report.doubts.ranking import doubts
from lib.report.formatting import duration, json_in_page, points
from lib.report.page import write_report
from lib.report.pictures import lighter, most_confused
from lib.report.verdict import comparison, elsewhere, headline
from lib.runs.status import read_status
from lib.storage.location import Location
from tests.fakes.evaluations import HOSTILE, PNG, Lab
from tests.fakes.records import choice_record

JSON_VALUES = st.recursive(
    st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


class Page(HTMLParser):
    """Counts elements, and keeps addresses, ids and whether every element is closed."""

    VOID = frozenset({"meta", "link", "img", "br", "wbr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(config: ReportConfig) -> str:
    write_report(config)
    return (Path(config.output) / "report.html").read_text(encoding="utf-8")


def titles(config: ReportConfig) -> list[str]:
    return [doubt.title for doubt in doubts(collect(config))]


@pytest.mark.parametrize(
    ("difference", "text"), [(0.05, "+5.0"), (-0.0123, "\N{MINUS SIGN}1.2"), (0.0, "0.0"), (-0.0002, "0.0")]
)
def test_a_difference_has_a_sign_unless_it_rounds_to_nothing(difference: float, text: str) -> None:
    assert points(difference) == text


def test_the_verdict_names_the_best_model_with_its_wilson_interval(lab: Lab) -> None:
    report = collect(lab.both({1, 2, 3}, {1, 2, 3, 4, 5, 6}))
    assert headline(report) == (
        "Best of 2 models: cnn is right on 57 of 60 test images (95.0 %; 95 % interval 86 to 98 %, Wilson)."
    )
    assert "cnn alone is right on 3 images, vgg16 alone on 0: this difference can be chance" in comparison(report)


def test_equal_models_tie_and_none_is_called_best(lab: Lab) -> None:
    summary = write_report(lab.both({1}, {2}))
    assert summary.verdict.startswith("cnn and vgg16 tie for best of 2 models: each is right on 59 of 60")
    assert summary.best is None


def test_a_model_of_a_sweep_shows_the_best_trials_and_who_chose_it(lab: Lab) -> None:
    config = lab.both({1, 2})
    trials = [
        TrialResult(
            trial=number,
            parameters={"learning_rate": 0.1 / number, "augment": ["flip", HOSTILE] if number > 1 else []},
            val_loss=None if number == 12 else number / 10,
            val_accuracy=None if number == 12 else 0.5,
            best_epoch=None if number == 12 else 2,
            epochs=3,
            pruned=number == 4,
            seconds=1.0,
        )
        for number in range(1, 13)
    ]
    sweep = SweepRecord(trials=12, pruned=1, metric="val_loss", best=1, parameters={})
    lab.model("cnn", sweep=sweep)
    Leaderboard(metric="val_loss", trials=trials).write(Location(str(lab.root / "models" / "cnn" / "sweep")))
    page = page_of(config)
    assert "The best of 12 trials on the validation images; the first 10 are shown" in page
    table = page.split('<table class="trials">')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">(\d+)', table) == [str(number) for number in range(1, 11)]
    assert re.search(r'row">1 <span class="badge">best</span></th><td>0.1<wbr></td><td>none<wbr></td>', table)
    assert re.search(r'row">4 <span class="quiet">pruned</span>', table)
    assert HOSTILE not in page
    assert "cnn was chosen by its validation images" in titles(config)


def test_grave_mistakes_are_shown_where_their_cost_is_known(lab: Lab) -> None:
    assert "How grave the mistakes are" not in page_of(lab.both({1, 2}))
    shutil.rmtree(lab.root)
    lab.stakes = Stakes(np.array([0.0, 1]), np.array([[0, 3.0], [12, 0]]))
    page = page_of(lab.both({1, 2}))
    table = page.split('aria-label="Costs of mistakes">')[1].split("</table>")[0]
    cells = re.findall(r'<td class="n">([^<]+)', table)
    assert cells == ["0.933", "0.250", "0.250"]  # one of 60 costs 3, one 12; kappa of two classes is 1 - 2 * 2 / 60
    assert '0.933<span class="range">' in page.split("<h3>How grave")[0]  # Matthews and kappa, beside accuracy


def test_sites_are_shown_worst_first_and_one_that_is_worse_is_doubted(lab: Lab) -> None:
    config = lab.both(set(range(0, 30, 3)))
    assert "By site and other columns" not in page_of(config)
    answers = Answers(lab.actual(), lab.probabilities(set(range(0, 30, 3))), [None] * 60)
    table = slice_table(answers, {"site": ["Kiel"] * 30 + [HOSTILE] * 30, "age": [str(age) for age in range(60)]}, 100)
    write_slices(table, Location(config.evaluations[0]))
    page = page_of(config)
    rows = page.split('<table class="classes slices sortable">')[1].split("</table>")[0].split("<tr>")[2:]
    accuracies = [int(re.search(r'class="figure">(\d+) %', row)[1]) for row in rows]
    assert len(rows) == 6
    assert accuracies == sorted(accuracies)
    assert accuracies[0] < 70
    assert HOSTILE not in page
    doubt = next(doubt for doubt in doubts(collect(config)) if doubt.title == "cnn is worse on some images")
    assert "66.7 % of 30 images with site 'Kiel'" in doubt.text
    Page(page)


def site_record(**changes: Any) -> SiteRecord:
    left_out = [
        LeftOutSite(
            site=site,
            images=20,
            in_training=site != "Bonn",
            accuracy=accuracy,
            as_many_accuracy=0.95,
            ordinary_accuracy=0.95,
        )
        for site, accuracy in (("Bonn", 0.7), (HOSTILE, 0.8), ("Kiel", 0.9))
    ]
    found = {"sites": 3, "cramers_v": 0.42, "same_site": 0.8, "same_site_by_chance": 0.33, "same_site_p_value": 0.001}
    found |= {"robustness_index": 0.61, "left_out": left_out, "expected_accuracy": 0.8, "expected_interval": (0.3, 1)}
    return SiteRecord.model_validate(found | changes)


def evaluated_at_sites(lab: Lab, sites: SiteRecord) -> ReportConfig:
    lab.dataset()
    lab.model("cnn")
    return lab.config(lab.evaluation("cnn", {1, 2}, sites=sites))


def test_the_verdict_says_what_to_expect_on_a_new_site(lab: Lab) -> None:
    config = evaluated_at_sites(lab, site_record())
    page = page_of(config)
    assert "On a new site expect about 80\N{NO-BREAK SPACE}% (30 to 100\N{NO-BREAK SPACE}%)" in page
    rows = page.split('aria-label="Sites left out, cnn">')[1].split("</table>")[0].split("<tr>")[2:]
    assert ("not in training" in rows[0], "\N{MINUS SIGN}25.0" in rows[0]) == (True, True)
    assert HOSTILE not in page
    doubt = next(doubt for doubt in doubts(collect(config)) if doubt.title == "The site may tell cnn the class")
    assert "in 80 %, by chance in 33 %" in doubt.text
    Page(page)


def test_two_sites_do_not_show_how_sites_differ_and_even_ones_raise_no_doubt(lab: Lab) -> None:
    sites = site_record(expected_interval=None, left_out=site_record().left_out[:2], cramers_v=0.1)
    config = evaluated_at_sites(lab, sites)
    assert elsewhere(collect(config).evaluations[0]) == (
        "On a new site expect about 80 %, against 95 % on those that were tested. 2 sites cannot show how sites differ."
    )
    assert "The site may tell cnn the class" not in titles(config)


def test_sites_of_too_few_images_are_not_forecast_from(lab: Lab) -> None:
    config = evaluated_at_sites(lab, site_record(expected_accuracy=None, expected_interval=None, left_out=[]))
    assert "Too few images of each site to tell what to expect on a new one." in page_of(config)


def rows_of_choice(page: str) -> list[str]:
    table = page.split('<table class="choice">')[1].split("</table>", maxsplit=1)[0]
    return [" ".join(re.sub(r"<[^>]+>", " ", row.replace("<wbr>", "")).split()) for row in table.split("<tr")[2:]]


def with_choice(lab: Lab, **changes: Any) -> ReportConfig:
    folder = lab.root / "choice"
    choice_record(**changes).write(Location(str(folder)))
    return lab.both({1}).model_copy(update={"choice": str(folder)})


def test_a_model_that_was_chosen_shows_what_else_was_tried_and_what_luck_has_added(lab: Lab) -> None:
    config = with_choice(lab, candidates=[*choice_record().candidates, TriedModel(name=HOSTILE, spec="x", reason="y")])
    page = page_of(config)
    chosen, corrected = "vgg16 chosen 0.250 91.0 % 97.5 % vgg16", "vgg16, corrected for the choice 0.260 90.5 %"
    rows = rows_of_choice(page)
    assert [re.sub(r"^.*?> ", "", row) for row in rows[:2]] == ["cnn_bn 0.900 70.0 % 2.5 % cnn_bn", chosen]
    assert "left out: its weights cannot be had" in rows[2]
    assert "colour alone 1.100 60.0 %" in rows[4]
    assert corrected in rows[5]
    assert "vgg16 was chosen by 78 training images: they were left out in 5 parts" in page.replace("<wbr>", "")
    assert "Luck has added +0.5 points of accuracy" in page
    assert "Colours alone have a lower loss" not in page
    assert HOSTILE not in page
    assert "What was tried" not in page_of(config.model_copy(update={"choice": None}))


def test_a_choice_that_colours_would_have_won_or_that_was_none_says_so(lab: Lab) -> None:
    config = with_choice(
        lab, groups=12, floor=TriedModel(name="colours", accuracy=0.95, loss=0.1),
        candidates=choice_record().candidates[1:],
    )  # fmt: skip
    page = page_of(config)
    assert "Colours alone have a lower loss than every candidate" in page
    assert "Nothing else could be tried, so that this was no choice" in page
    assert "78 training images of 12 groups (slides, patients)" in page


def test_report_json_is_written_last_and_holds_what_the_page_says(lab: Lab) -> None:
    config = lab.both({1, 2, 3})
    summary = write_report(config)
    assert ReportRecord.read(Location(str(lab.root / "report"))) == summary
    assert set(ReportRecord.model_fields) - summary.model_fields_set == {"marker", "inputs"}
    (model,) = summary.models
    # of classes of 30 images, 2 and 1 are taken for the other
    assert model.macro_f1 == pytest.approx((2 * 28 / (29 + 30) + 2 * 29 / (31 + 30)) / 2)
    assert (model.name, model.accuracy, model.images) == ("cnn", 0.95, 60)
    counts = Counts(listed=63, accepted=60, quarantined=2, excluded=1)
    assert summary.doubts[0] == "Few images"
    assert summary.datasets == [DatasetSummary(uri=str(lab.root / "dataset"), content_hash="hash-1", counts=counts)]
    assert summary.completed_at.endswith("+00:00")


def test_a_page_that_cannot_be_written_leaves_no_completed_report(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lab.both({1})
    write_report(config)

    def fail(*_: object) -> str:
        raise RuntimeError("killed here")

    monkeypatch.setattr("lib.report.page.render", fail)
    with pytest.raises(RuntimeError):
        write_report(config)
    assert (lab.root / "report/report.html").exists()
    assert not (lab.root / "report/report.json").exists()
    (found,) = read_status(Location(str(lab.root / "report")))
    assert (found.job, found.state) == ("report", "failed")
    assert "killed here" in found.detail
    monkeypatch.setattr("lib.storage.location.Location.write_bytes", fail)
    monkeypatch.setattr("lib.report.page.render", lambda *_: "page")
    with pytest.raises(RuntimeError):
        write_report(config)
    assert not (lab.root / "report/report.json").exists()


def test_labels_and_details_are_escaped(lab: Lab) -> None:
    page = page_of(lab.both({1, 2, 3}))
    assert HOSTILE not in page
    assert "<b>off" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert [script.get("type") for script in Page(page).all("script")] == ["application/json", None]


def test_a_name_that_plots_show_by_number_is_told_beside_them(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    page = page_of(lab.config(lab.evaluation("cnn", {1}, drawn_as={"class no. 2": "肝臓"})))
    assert "<li><b>class no. 2</b> 肝臓<wbr></li>" in page
    assert page.index("<h3>Plots</h3>") < page.index("class no. 2") < page.index('<div class="plots">')
    lab.model("vgg16")
    assert 'class="key"' not in page_of(lab.config(lab.evaluation("vgg16", {1})))


def test_the_page_asks_the_network_for_nothing(lab: Lab) -> None:
    page = page_of(lab.both({1, 2, 3}))
    parsed = Page(page)
    addresses = [
        value for _, attributes in parsed.elements for value in (attributes.get("src"), attributes.get("href"))
    ]
    assert {address.split(",")[0] for address in addresses if address and not address.startswith("#")} == {
        "data:",
        "data:image/png;base64",
    }
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in str(parsed.all("meta"))


def test_every_element_is_closed_every_link_has_its_target_and_every_picture_its_words(lab: Lab) -> None:
    parsed = Page(page_of(lab.both({1, 2, 3}, {4})))
    assert parsed.open == []
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in parsed.all("a")} <= set(ids)
    assert all(image["alt"] for image in parsed.all("img"))
    assert len([image for image in parsed.all("img") if "png" in str(image.get("src"))]) == 18
    assert [name for name, _ in parsed.elements].count("h1") == 1


def test_the_account_is_stated_by_class_and_adds_up(lab: Lab) -> None:
    report = collect(lab.both({1}))
    (dataset,) = report.datasets
    assert dataset.adds_up
    assert dataset.splits == ["train", "test"]
    assert dataset.classes == [HOSTILE, "liver", "-"]
    assert dataset.count(class_name="liver").listed == 32
    assert dataset.count(split="test").accepted == 60
    assert dataset.count().listed == 63
    assert "The counts add up" in page_of(
        ReportConfig(evaluations=(report.evaluations[0].uri,), output=str(lab.root / "r"))
    )


def test_an_account_that_does_not_add_up_is_said_so(lab: Lab) -> None:
    counts = {"listed": 70, "accepted": 60, "quarantined": 2, "excluded": 1}
    lab.dataset(counts=counts)
    lab.model("cnn")
    config = ReportConfig(evaluations=(lab.evaluation("cnn", {1}),), output=str(lab.root / "report"))
    assert "File counts do not add up" in titles(config)
    assert "The counts do not add up: files are missing or counted twice." in page_of(config)


def test_the_most_confident_mistakes_come_first_and_the_rest_is_counted(lab: Lab) -> None:
    lab.images = 400
    config = lab.both(set(range(MOST_MISTAKES + 15)))
    (evaluation,) = collect(config).evaluations
    mistakes = evaluation.predictions.mistakes
    assert len(mistakes) == MOST_MISTAKES
    assert mistakes[0].image_id == f"{MOST_MISTAKES + 14:016x}"
    assert [m.confidence for m in mistakes] == sorted((m.confidence for m in mistakes), reverse=True)
    assert f"{MOST_MISTAKES + 15} mistakes, the most confident first: {MOST_MISTAKES} are shown" in page_of(config)
    assert "the other 15 are in" in page_of(config)


def test_thumbnails_are_small_jpegs_and_missing_images_are_said_to_be_missing(lab: Lab) -> None:
    config = lab.both({1, 2})
    file = lab.root / "evaluations/cnn/thumbnails/a.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter(pc.not_equal(table["image_id"], lab.ids()[2])), file)
    report = collect(config)
    (thumbnails,) = report.thumbnails.values()
    assert list(thumbnails.singles) == [lab.ids()[1]]
    image = cv2.imdecode(np.frombuffer(thumbnails.singles[lab.ids()[1]], np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (SIDE_PX, round(150 * SIDE_PX / 180), 3)
    page = page_of(config)
    assert page.count("no picture kept") == 1
    assert "earlier version" not in page


def test_an_evaluation_of_an_earlier_version_shows_the_pictures_that_another_one_kept(lab: Lab) -> None:
    config = lab.both({1}, {1, 2})
    shutil.rmtree(lab.root / "evaluations/cnn/thumbnails")
    (thumbnails,) = collect(config).thumbnails.values()
    assert sorted(thumbnails.singles) == lab.ids()[1:3]


def test_an_evaluation_of_an_earlier_version_says_why_it_has_no_pictures(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    config = lab.config(lab.evaluation("cnn", {1}, maps=lab.layouts()))
    shutil.rmtree(lab.root / "evaluations/cnn/thumbnails")
    page = page_of(config)
    assert page.count("made by an earlier version, which kept no pictures of the images") == 1
    assert page.count("no picture kept") == 1
    data = json.loads(page.split('id="page-data">')[1].split("</script>")[0])
    assert data["thumbnails"] == []
    assert set(data["maps"][0]["tiles"]) == {-1}


def test_the_list_of_quarantined_files_is_capped_and_the_rest_is_counted(lab: Lab) -> None:
    lab.quarantined = MOST_REFUSED + 1234
    page = page_of(lab.both({1}))
    assert f"(the first {MOST_REFUSED}; 1,234 more are in manifest.parquet)" in page
    assert page.count("<code>truncated</code></td>") == MOST_REFUSED


@pytest.mark.parametrize(
    ("folder", "marker"),
    [("evaluations/cnn", "evaluation.json"), ("models/cnn", "model.json"), ("dataset", "dataset.json")],
)
def test_an_incomplete_folder_is_refused_by_name(lab: Lab, folder: str, marker: str) -> None:
    config = lab.both({1})
    (lab.root / folder / marker).unlink()
    with pytest.raises(SettingsError) as refusal:
        write_report(config)
    assert str(lab.root / folder) in str(refusal.value)
    assert marker in str(refusal.value)
    assert refusal.value.exit_code == 2
    assert not (lab.root / "report").exists()


def test_evaluations_on_different_images_are_shown_but_not_ranked(lab: Lab) -> None:
    lab.dataset()
    for name in ("cnn", "vgg16"):
        lab.model(name)
    folders = (lab.evaluation("cnn", {1}), lab.evaluation("vgg16", {2, 3}, dataset_hash="hash-2"))
    config = ReportConfig(evaluations=folders, output=str(lab.root / "report"))
    report = collect(config)
    assert headline(report).startswith("2 evaluations on different images")
    assert comparison(report) == ""
    assert {"Not the same images", "vgg16 was trained on other data"} <= set(titles(config))
    assert "do not rank them" in page_of(config)
    assert write_report(config).best is None


def test_doubts_are_those_of_the_data(lab: Lab) -> None:
    assert titles(lab.both({1, 2, 3})) == ["Few images", "Quarantined images", "Slide and patient unknown"]


def test_a_model_no_better_than_the_most_frequent_class_may_have_learned_nothing(lab: Lab) -> None:
    config = lab.both({index for index in range(60) if index % 2})
    found = titles(config)
    assert "cnn may have learned nothing" in found
    assert "cnn misses whole classes" in found
    assert "cnn is overconfident" in found


@pytest.mark.parametrize(
    ("metrics", "title"),
    [
        ({"accuracy": 1.0, "val_accuracy": 0.7}, "cnn overfits"),
        ({"best_epoch": 8}, "cnn was still improving"),
        ({"val_accuracy": None}, "cnn was not validated"),
    ],
)
def test_how_training_went_is_doubted(lab: Lab, metrics: dict[str, Any], title: str) -> None:
    lab.dataset()
    best = BestEpoch(best_epoch=3, epochs=8, loss=0.1, accuracy=0.97, val_loss=0.2, val_accuracy=0.95)
    lab.model("cnn", metrics=best.model_copy(update=metrics))
    config = ReportConfig(evaluations=(lab.evaluation("cnn", {1}),), output=str(lab.root / "report"))
    assert title in titles(config)
    assert "nan" not in page_of(config).lower().split("<main>")[0]


def test_groups_and_equal_files_in_two_splits_are_found() -> None:
    rows = [
        ("1", "train", "slide a", "md5:x", "accepted"),
        ("2", "test", "slide a", "md5:y", "accepted"),
        ("3", "test", "slide b", "md5:x", "accepted"),
        ("4", "test", None, "md5:y", "accepted"),
        ("5", "train", "slide b", "md5:y", "quarantined"),
    ]
    columns = ["image_id", "split", "group", "checksum", "verdict"]
    overlap = find_overlap(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))))
    # slide a is in train and test; images 1 and 3 are equal across splits, 2 and 4 within one
    assert (overlap.grouped, overlap.shared_groups) == (3, 1)
    assert (overlap.checksummed, overlap.shared_contents) == (4, 2)


def test_where_every_image_has_a_group_the_interval_comes_from_groups(lab: Lab) -> None:
    lab.groups = [f"slide {index // 5}" for index in range(lab.images)]
    report = collect(lab.both(set(range(10)), set(range(20))))
    (best, _) = report.evaluations
    assert best.interval == best.metrics.intervals.accuracy
    assert best.interval_method == "bootstrap of 12 groups"
    assert headline(report).endswith("bootstrap of 12 groups).")
    assert comparison(report).endswith("bootstrap of groups).")
    assert "Slide and patient unknown" not in [doubt.title for doubt in doubts(report)]


def test_without_groups_the_interval_is_wilsons_even_if_all_are_right(lab: Lab) -> None:
    (evaluation,) = collect(lab.both(set())).evaluations
    assert evaluation.metrics.intervals.accuracy == (1, 1)
    assert evaluation.interval[0] < 0.95
    assert "No image is misclassified." in page_of(lab.config(evaluation.uri))


@pytest.mark.parametrize(("wrong", "expected"), [(set(), (0.758, 1)), (set(range(60)), (0, 0.242))])
def test_if_all_are_right_or_all_wrong_each_group_counts_once(
    lab: Lab, wrong: set[int], expected: tuple[float, float]
) -> None:
    lab.groups = [f"slide {index // 5}" for index in range(lab.images)]
    (evaluation,) = collect(lab.both(wrong)).evaluations
    assert evaluation.interval == pytest.approx(expected, abs=1e-3)  # Wilson of 12 of 12, and of 0 of 12
    assert evaluation.interval_method == "Wilson, of 12 groups"


def test_few_groups_are_doubted(lab: Lab) -> None:
    lab.groups = [f"slide {index % 3}" for index in range(lab.images)]
    assert "Few groups" in titles(lab.both({1, 2, 3}))


def test_a_difference_whose_interval_over_groups_includes_zero_can_be_chance(lab: Lab) -> None:
    lab.groups = ["slide a"] * 20 + [f"slide {index}" for index in range(40)]
    config = lab.both(set(), set(range(12)))  # all of them on one slide: p = 0.0005
    assert "this difference can be chance" in comparison(collect(config))
    assert "Is the best really better?" in titles(config)


def test_models_of_one_name_are_told_apart_by_their_time(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    folders = [
        lab.evaluation("cnn", {1}, folder_name="today"),
        lab.evaluation("cnn", {1, 2}, folder_name="earlier", completed_at="2026-11-20T08:15:00+00:00"),
        lab.evaluation("cnn", {1, 2, 3}, folder_name="again", completed_at="2026-11-20T08:15:30+00:00"),
    ]
    names = [one.name for one in collect(lab.config(*folders)).evaluations]
    assert names == ["cnn (2026-11-23 20:00)", "cnn (2026-11-20 08:15) 1", "cnn (2026-11-20 08:15) 2"]


def test_predictions_of_different_images_of_one_dataset_are_refused(lab: Lab) -> None:
    config = lab.both({1}, {2})
    file = lab.root / "evaluations/vgg16/predictions/a.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(DataError, match="predicted by only one"):
        collect(config)


@pytest.mark.parametrize(("accuracy", "doubted"), [(0.9, True), (0.85, False)])
def test_a_model_whose_interval_reaches_down_to_that_of_colours_is_doubted(
    lab: Lab, accuracy: float, doubted: bool
) -> None:
    lab.dataset()
    lab.model("cnn")
    config = lab.config(lab.evaluation("cnn", {1, 2, 3}, checks=lab.checks(baseline=accuracy)))  # 0.863 to 0.983
    assert ("cnn may be no better than colour alone" in titles(config)) is doubted
    assert f"is right on <b>{100 * accuracy:.1f} %</b> of the 60 test images" in page_of(config)


def test_checks_of_another_split_are_no_baseline(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    config = lab.config(lab.evaluation("cnn", {1}, checks=lab.checks(baseline=1.0), split="validation"))
    assert collect(config).evaluations[0].baseline is None
    assert "cnn may be no better than colour alone" not in titles(config)


def test_checks_without_a_baseline_say_so(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    assert "Not measured" in page_of(lab.config(lab.evaluation("cnn", {1}, checks=lab.checks(baseline=None))))


def test_near_duplicates_are_shown_side_by_side_and_the_rest_is_counted(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    pairs = [(index, index + 1) for index in range(MOST_SHOWN + 7)]
    config = lab.config(lab.evaluation("cnn", {1}, checks=lab.checks(pairs)))
    assert "Near copies in different splits" in titles(config)
    page = page_of(config)
    assert "37 pairs whose image hashes differ in at most 10 of 63 bits" in page
    assert "the closest 30 are shown, 7 more are in" in page
    assert page.count("labels differ") == MOST_SHOWN
    assert len([image for image in Page(page).all("img") if "data-thumbnail" in image]) >= 2 * MOST_SHOWN


def test_label_error_candidates_are_shown_and_the_rest_is_counted(lab: Lab) -> None:
    config = lab.both({1})
    lab.label_errors(config.evaluations[0], range(MOST_SHOWN + 3))
    assert "Some labels may be wrong" in titles(config)
    page = page_of(config)
    assert "30 of 33, the other 3 are in" in page
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    assert page.count('<span class="quiet">1.0 %</span>') == MOST_SHOWN


def test_training_images_a_model_takes_for_test_images_are_shown(lab: Lab) -> None:
    config = lab.both({1})
    write_near_duplicates(lab.near_duplicates([(0, 2)]), Location(config.evaluations[0]))
    assert "Test images that have a near copy in training" in titles(config)
    assert "Near copies in training" in page_of(config)


def test_incomplete_checks_are_refused_by_name(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    evaluation = lab.evaluation("cnn", {1}, checks=lab.checks())
    (lab.root / "checks/checks.json").unlink()
    with pytest.raises(SettingsError, match=r"checks\.json"):
        collect(lab.config(evaluation))


def test_an_evaluation_of_an_earlier_version_shows_less(lab: Lab) -> None:
    config = lab.both({1, 2, 3})
    folder = Location(config.evaluations[0])
    kept = {"images", "accuracy", "loss", "per_class", "macro", "weighted", "confusion_matrix"}
    metrics: dict[str, Any] = {key: value for key, value in Metrics.read(folder).as_json().items() if key in kept}
    rows = ("class_name", "precision", "recall", "f1", "support")
    metrics["per_class"] = [{key: row[key] for key in rows} for row in metrics["per_class"]]
    Metrics.model_validate(metrics).write(folder)
    page = page_of(config)
    assert "95.0 %; 95 % interval 86 to 98 %, Wilson" in page.replace("\N{NO-BREAK SPACE}", " ")
    assert "If it may leave uncertain images unanswered" not in page
    assert "Checks of the data" not in page
    assert "Map of the images" not in page


def test_a_model_without_a_temperature_is_said_to_be_uncalibrated(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn", calibration=None)
    assert "cnn is not calibrated" in titles(lab.config(lab.evaluation("cnn", {1, 2, 3})))


def test_confidence_that_is_right_on_average_alone_is_doubted(lab: Lab) -> None:
    lab.dataset()
    lab.model("cnn")
    probabilities = lab.probabilities({0, 2, 4, 6, 8, 10})
    sure = np.arange(60) < 30  # 30 images at 0.99 of which 6 are wrong, and 30 at 0.81, all right
    confidence = np.where(sure, 0.99, 0.81)
    probabilities = np.where(probabilities > 0.5, confidence[:, None], 1 - confidence[:, None]).astype(np.float32)
    assert "The confidence of cnn is unreliable" in titles(lab.config(lab.evaluation("cnn", probabilities)))


def test_chance_explains_a_calibration_error_of_few_images_and_none_of_many() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.uniform(0.5, 1, 50).astype(np.float32), rng.uniform(0.5, 1, 50_000).astype(np.float32)
    assert chance_calibration_error(few) > 0.1
    assert chance_calibration_error(many) < 0.01


def test_images_unlike_the_training_images_are_doubted(lab: Lab) -> None:
    config = lab.both({1})
    file = Path(config.evaluations[0]) / "predictions/a.parquet"
    table = pq.read_table(file)
    for count, doubted in ((3, False), (4, True)):
        pq.write_table(table.append_column("unfamiliar", [[index < count for index in range(60)]]), file)
        assert ("Images unlike anything cnn was trained on" in titles(config)) is doubted


def test_a_projector_that_could_not_be_verified_is_doubted(lab: Lab) -> None:
    config = lab.both({1})
    folder = Location(config.evaluations[0])
    projector = ProjectorRecord(points=60, verified=False, problem="TensorBoard ended with code 1: no module")
    assert "The Projector of cnn could not be verified" not in titles(config)
    EvaluationRecord.read(folder).model_copy(update={"projector": projector}).write(folder)
    assert "The Projector of cnn could not be verified" in titles(config)
    assert "TensorBoard ended with code 1: no module" in page_of(config)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=600))
def test_the_gallery_has_three_of_each_confused_pair_and_the_most_confident(pairs: list[tuple[int, int]]) -> None:
    mistakes = [
        Mistake(str(place), "", str(actual), str(predicted), 1 - place / 1000)
        for place, (actual, predicted) in enumerate(pairs)
    ]
    chosen = choose_mistakes(mistakes)
    assert len(chosen) == min(MOST_MISTAKES, len(mistakes))
    assert [int(one.image_id) for one in chosen] == sorted(int(one.image_id) for one in chosen)
    for pair in set(pairs):
        of_pair = [one for one in chosen if (int(one.actual), int(one.predicted)) == pair]
        assert len(of_pair) >= min(3, pairs.count(pair))
        assert of_pair == [mistakes[place] for place, other in enumerate(pairs) if other == pair][: len(of_pair)]


def test_of_more_pairs_than_places_each_comes_once_before_any_comes_twice() -> None:
    mistakes = [Mistake(str(place), "", str(place // 2), "x", 1 - place / 1000) for place in range(2 * MOST_MISTAKES)]
    assert {one.actual for one in choose_mistakes(mistakes)} == {str(number) for number in range(MOST_MISTAKES)}


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_in_the_page_keeps_its_content_and_cannot_end_its_element(value: Any) -> None:
    text = str(json_in_page(value))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


@given(st.integers(0, 5000))
def test_tiles_are_as_large_as_their_number_allows(images: int) -> None:
    side = tile_side(images)
    assert images * side**2 <= MOST_SPRITE_PX
    larger = [other for other in TILE_SIDES_PX if other > side]
    assert not larger or images * min(larger) ** 2 > MOST_SPRITE_PX


def test_each_image_of_a_map_has_its_own_tile(lab: Lab) -> None:
    lab.images = 30
    levels = [20 + 7 * index for index in range(30)]
    lab.jpegs = [cv2.imencode(".jpg", np.full((64, 64, 3), level, np.uint8))[1].tobytes() for level in levels]
    lab.dataset()
    lab.model("cnn")
    config = lab.config(lab.evaluation("cnn", {1, 2, 3}, maps=lab.layouts()))
    page = page_of(config)
    data = json.loads(page.split('id="page-data">')[1].split("</script>")[0])
    (points,), (sprite,) = data["maps"], data["sprites"]
    assert [kind["name"] for kind in points["kinds"]] == ["UMAP", "t-SNE", "principal components"]
    assert all(0 <= place <= 10_000 for kind in points["kinds"] for place in kind["places"])
    assert [points["classes"][number] for number in points["actual"]] == [lab.label(index) for index in range(30)]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(sprite["jpeg"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    for index, tile in enumerate(points["tiles"]):
        middle = [(place + 0.5) * sprite["side"] for place in divmod(tile, sprite["columns"])]
        assert abs(int(picture[int(middle[0]), int(middle[1])]) - levels[index]) <= 2
        assert (points["thumbnails"][index] >= 0) == (index in {1, 2, 3})


def test_a_map_that_was_not_made_is_not_offered(lab: Lab) -> None:
    lab.plots = {**lab.plots, "map_pca": PNG, "map_umap": PNG}
    lab.dataset()
    lab.model("cnn")
    (evaluation,) = collect(lab.config(lab.evaluation("cnn", {1}, maps={"pca": lab.layouts()["pca"]}))).evaluations
    assert evaluation.layouts is not None
    assert list(evaluation.layouts.places) == ["pca"]
    # what the page draws itself is not shown as a picture too
    assert [plot.key for plot in evaluation.plots if plot.key.startswith("map")] == ["map_umap"]


def test_the_policy_of_the_page_admits_its_own_script_alone(lab: Lab) -> None:
    page = page_of(lab.both({1}))
    script = page.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [str(m["content"]) for m in Page(page).all("meta") if m.get("http-equiv")]
    assert f"script-src 'sha256-{digest}';" in policy
    assert not [name for _, attributes in Page(page).elements for name in attributes if name.startswith("on")]


def test_heavy_drawings_lose_bytes_and_no_colour() -> None:
    rng = np.random.default_rng(0)
    drawing = np.full((900, 900, 3), 255, np.uint8)
    for x, y in rng.integers(0, 900, (3000, 2)):
        cv2.circle(drawing, (int(x), int(y)), 6, (180, 110, int(x) % 60), -1, cv2.LINE_AA)
    drawing[450:456, 450:452] = (40, 200, 90)  # a small mark of a rare class
    png = cv2.imencode(".png", drawing)[1].tobytes()
    lighter_png, media_type = lighter(png, photo=False)
    assert media_type == "image/png"
    assert len(lighter_png) < 0.7 * len(png)
    again = cv2.imdecode(np.frombuffer(lighter_png, np.uint8), cv2.IMREAD_COLOR)
    assert again is not None
    assert np.abs(again.astype(int) - drawing).max() <= 12
    assert lighter(PNG, photo=True) == (PNG, "image/png")
    assert lighter(png, photo=True)[1] == "image/jpeg"


def test_the_most_frequent_mistakes_are_named_first() -> None:
    assert most_confused([[5, 1, 0], [3, 5, 2], [0, 0, 5]], ["a", "b", "c"]) == [
        ("b", "a", 3),
        ("b", "c", 2),
        ("a", "b", 1),
    ]


def test_two_models_with_maps_heavy_plots_and_full_galleries_stay_below_fifteen_megabytes(lab: Lab) -> None:
    lab.images, rng = 5000, np.random.default_rng(0)
    # smooth noise of all colours: twice the bytes of stained tissue
    blots = [cv2.resize(rng.integers(0, 255, (24, 24, 3), np.uint8), (180, 180)) for _ in range(50)]
    lab.jpegs = [cv2.imencode(".jpg", blot)[1].tobytes() for blot in blots]
    lab.plots = {**dict.fromkeys(lab.plots, rng.bytes(100_000)), "grad_cam": rng.bytes(119_000)}
    lab.dataset()
    folders = []
    for name, step in (("cnn", 7), ("vgg16", 9)):
        lab.model(name)
        folders.append(lab.evaluation(name, set(range(0, 5000, step)), maps=lab.layouts()))
    assert 5_000_000 < len(page_of(lab.config(*folders))) < 15_000_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.25, "1.2 s"), (48.2, "48 s"), (720.0, "12 min"), (11100.0, "3 h 5 min")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
