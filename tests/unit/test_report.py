"""The report: one offline page from three kinds of folders, honest about what its numbers cannot tell."""

import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lib.config import ReportConfig
from lib.errors import SettingsError
from lib.report.collect import MOST_MISTAKES, MOST_REFUSED, collect, find_overlap
from lib.report.doubts import doubts
from lib.report.html import duration, write_report
from lib.report.pictures import most_confused
from lib.report.thumbnails import SIDE_PX
from lib.report.verdict import comparison, exact_mcnemar, headline

HOSTILE = "<script>alert(1)</script>"
PNG = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
JPEG = cv2.imencode(".jpg", np.full((180, 150, 3), 90, np.uint8))[1].tobytes()


@dataclass
class Lab:
    """Writes folders as the jobs do: `images` test images of two classes, and models that miss some of them."""

    root: Path
    images: int = 60
    quarantined: int = 2
    class_names: tuple[str, str] = ("liver", HOSTILE)

    def ids(self) -> list[str]:
        return [f"{index:016x}" for index in range(self.images)]

    def label(self, index: int) -> str:
        return self.class_names[index % 2]

    def dataset(self, content_hash: str = "hash-1", **record: Any) -> None:
        folder = self.root / "dataset"
        (folder / "images").mkdir(parents=True)
        shard = [{"image_id": name, "image": JPEG} for name in self.ids()]
        pq.write_table(pa.Table.from_pylist(shard), folder / "images/test-00000.parquet")
        pq.write_table(self.manifest(), folder / "manifest.parquet")
        count = {"accepted": self.images // 2, "quarantined": 0, "excluded": 0}
        by_class = {name: dict(count) for name in self.class_names}
        train = {"liver": {"accepted": 0, "quarantined": self.quarantined, "excluded": 0}}
        content = {
            "class_names": list(self.class_names),
            "image_size": 180,
            "encoding": {"format": "jpeg", "quality": 95},
            "counts": {
                "listed": self.images + self.quarantined + 1,
                "accepted": self.images,
                "quarantined": self.quarantined,
                "excluded": 1,
            },
            "counts_by_split": {
                "-": {"-": {"accepted": 0, "quarantined": 0, "excluded": 1}},
                "test": by_class,
                "train": train,
            },
            "reasons": {"truncated": self.quarantined, "not_tiff_name": 1},
            "source": "gs://lab/organs",
            "settings": {"seed": 0},
            "versions": {"ray": "2.60.0"},
            "content_hash": content_hash,
            "seconds": 1.0,
        }
        (folder / "dataset.json").write_text(json.dumps(content | record))

    def manifest(self) -> pa.Table:
        fields = ["image_id", "path", "checksum", "label", "split", "group", "verdict", "reason", "detail"]
        empty = dict.fromkeys(fields)
        rows = [
            empty | {"image_id": name, "path": f"test/{name}.tif", "split": "test", "verdict": "accepted"}
            for name in self.ids()
        ]
        for index in range(self.quarantined):
            refused = {"image_id": f"q{index}", "path": f"train/liver/bad{index:04d}.tif", "label": "liver"}
            verdict = {"split": "train", "verdict": "quarantined", "reason": "truncated", "detail": "cut <b>off"}
            rows.append(empty | refused | verdict)
        return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in fields]))

    def model(self, name: str, **metrics: Any) -> None:
        folder = self.root / "models" / name
        folder.mkdir(parents=True)
        (folder / "curves.png").write_bytes(PNG)
        measured = {"accuracy": 0.97, "val_accuracy": 0.95, "best_epoch": 3, "epochs": 8}
        content = {
            "name": name,
            "spec": name,
            "class_names": list(self.class_names),
            "image_size": 180,
            "weights": None,
            "preprocessing": "inside the model",
            "settings": {"epochs": 8},
            "world_size": 1,
            "metrics": measured | metrics,
            "dataset_hash": "hash-1",
            "versions": {"keras": "3.15.1"},
            "seconds": 75.0,
            "parameters": 1234567,
        }
        (folder / "model.json").write_text(json.dumps(content))

    def evaluation(self, name: str, wrong: set[int], **record: Any) -> str:
        folder = self.root / "evaluations" / name
        for part in ("plots", "predictions"):
            (folder / part).mkdir(parents=True)
        for plot in ("confusion_matrix", "scatter", "swarm", "per_class", "reliability"):
            (folder / "plots" / f"{plot}.png").write_bytes(PNG)
        pq.write_table(pa.Table.from_pylist(self.predictions(wrong)), folder / "predictions/a.parquet")
        (folder / "metrics.json").write_text(json.dumps(self.metrics(wrong)))
        content = {
            "name": name,
            "spec": name,
            "model_dir": str(self.root / "models" / name),
            "dataset": str(self.root / "dataset"),
            "dataset_hash": "hash-1",
            "split": "test",
            "class_names": list(self.class_names),
            "images": self.images,
            "metrics": {},
            "settings": {"split": "test"},
            "versions": {"ray": "2.60.0"},
            "seconds": 2.0,
            "completed_at": "2026-11-23T20:00:00+00:00",
        }
        (folder / "evaluation.json").write_text(json.dumps(content | record))
        return str(folder)

    def predictions(self, wrong: set[int]) -> list[dict[str, Any]]:
        return [
            {
                "image_id": name,
                "path": f"test/{name}.tif",
                "label": self.label(index),
                "predicted": self.label(index + (index in wrong)),
                "correct": index not in wrong,
                "confidence": 0.9 + index / 1e5,
            }
            for index, name in enumerate(self.ids())
        ]

    def metrics(self, wrong: set[int]) -> dict[str, Any]:
        half, missed = self.images // 2, [sum(i % 2 == side for i in wrong) for side in (0, 1)]
        rows = [
            {"class_name": name, "precision": 0.9, "recall": 1 - missed[side] / half, "f1": 0.9, "support": half}
            for side, name in enumerate(self.class_names)
        ]
        return {
            "loss": 0.2,
            "per_class": rows,
            "macro": {"precision": 0.9, "recall": 0.9, "f1": 0.912},
            "confusion_matrix": [[half - missed[0], missed[0]], [missed[1], half - missed[1]]],
        }

    def both(self, *wrong: set[int]) -> ReportConfig:
        """A dataset, a model for each set of wrong images, and the settings of their report."""
        self.dataset()
        names = ["cnn", "vgg16"][: len(wrong)]
        for name in names:
            self.model(name)
        folders = [self.evaluation(name, missed) for name, missed in zip(names, wrong, strict=True)]
        return ReportConfig(evaluations=tuple(folders), output=str(self.root / "report"))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


class Page(HTMLParser):
    """Counts elements, and keeps addresses, ids and whether every element is closed."""

    VOID = frozenset({"meta", "link", "img", "br", "wbr"})

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


def test_the_verdict_names_the_best_model_with_its_wilson_interval(lab: Lab) -> None:
    report = collect(lab.both({1, 2, 3}, {1, 2, 3, 4, 5, 6}))
    assert headline(report) == (
        "Best of 2 models: cnn is right on 57 of 60 test images (95.0 %; 95 % interval 86 to 98 %, Wilson)."
    )
    assert "Only cnn is right on 3 images, only vgg16 on 0: that can be chance" in comparison(report)


def test_equal_models_tie_and_none_is_called_best(lab: Lab) -> None:
    summary = write_report(lab.both({1}, {2}))
    assert summary["verdict"].startswith("cnn and vgg16 tie for best of 2 models: each is right on 59 of 60")
    assert summary["best"] is None


def test_a_model_of_a_sweep_shows_the_best_trials_and_who_chose_it(lab: Lab) -> None:
    config = lab.both({1, 2})
    folder = lab.root / "models" / "cnn"
    rows = [
        {
            "trial": number,
            "parameters": {"learning_rate": 0.1 / number, "augment": ["flip", HOSTILE] if number > 1 else []},
            "val_loss": None if number == 12 else number / 10,
            "val_accuracy": None if number == 12 else 0.5,
            "epochs": 3,
            "pruned": number == 4,
        }
        for number in range(1, 13)
    ]
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | {"sweep": {"trials": 12, "best": 1, "parameters": {}}}))
    (folder / "sweep").mkdir()
    (folder / "sweep" / "leaderboard.json").write_text(json.dumps({"metric": "val_loss", "trials": rows}))
    page = page_of(config)
    assert "Validation images chose the best of 12 trials; the first 10 are shown" in page
    table = page.split('<table class="trials">')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">(\d+)', table) == [str(number) for number in range(1, 11)]
    assert re.search(r'row">1 <span class="badge">best</span></th><td>0.1<wbr></td><td>none<wbr></td>', table)
    assert re.search(r'row">4 <span class="quiet">pruned</span>', table)
    assert HOSTILE not in page
    assert "Validation images chose cnn" in titles(config)


def test_report_json_is_written_last_and_holds_what_the_page_says(lab: Lab) -> None:
    config = lab.both({1, 2, 3})
    summary = write_report(config)
    assert json.loads((lab.root / "report/report.json").read_text()) == summary
    (model,) = summary["models"]
    assert (model["name"], model["accuracy"], model["macro_f1"], model["images"]) == ("cnn", 0.95, 0.912, 60)
    counts = {"listed": 63, "accepted": 60, "quarantined": 2, "excluded": 1}
    assert summary["datasets"] == [{"uri": str(lab.root / "dataset"), "content_hash": "hash-1", "counts": counts}]
    assert summary["completed_at"].endswith("+00:00")


def test_a_page_that_cannot_be_written_leaves_no_completed_report(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lab.both({1})
    write_report(config)

    def fail(*_: object) -> str:
        raise RuntimeError("killed here")

    monkeypatch.setattr("lib.report.html.render", fail)
    with pytest.raises(RuntimeError):
        write_report(config)
    assert (lab.root / "report/report.html").exists()
    monkeypatch.setattr("lib.storage.filesystem.Location.write_bytes", fail)
    monkeypatch.setattr("lib.report.html.render", lambda *_: "page")
    with pytest.raises(RuntimeError):
        write_report(config)
    assert not (lab.root / "report/report.json").exists()


def test_labels_and_details_are_escaped(lab: Lab) -> None:
    page = page_of(lab.both({1, 2, 3}))
    assert HOSTILE not in page
    assert "<b>off" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert len(Page(page).all("script")) == 1


def test_the_page_asks_the_network_for_nothing(lab: Lab) -> None:
    page = page_of(lab.both({1, 2, 3}))
    parsed = Page(page)
    addresses = [
        value for _, attributes in parsed.elements for value in (attributes.get("src"), attributes.get("href"))
    ]
    assert {address.split(",")[0] for address in addresses if address and not address.startswith("#")} == {
        "data:",
        "data:image/png;base64",
        "data:image/jpeg;base64",
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
    assert len([image for image in parsed.all("img") if "png" in str(image["src"])]) == 12
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
    assert "The account adds up" in page_of(
        ReportConfig(evaluations=(report.evaluations[0].uri,), output=str(lab.root / "r"))
    )


def test_an_account_that_does_not_add_up_is_said_so(lab: Lab) -> None:
    counts = {"listed": 70, "accepted": 60, "quarantined": 2, "excluded": 1}
    lab.dataset(counts=counts)
    lab.model("cnn")
    config = ReportConfig(evaluations=(lab.evaluation("cnn", {1}),), output=str(lab.root / "report"))
    assert "The account does not add up" in titles(config)
    assert "The account does not add up: files were lost or counted twice." in page_of(config)


def test_the_most_confident_mistakes_come_first_and_the_rest_is_counted(lab: Lab) -> None:
    lab.images = 200
    config = lab.both(set(range(MOST_MISTAKES + 15)))
    (evaluation,) = collect(config).evaluations
    mistakes = evaluation.predictions.mistakes
    assert len(mistakes) == MOST_MISTAKES
    assert mistakes[0].image_id == f"{MOST_MISTAKES + 14:016x}"
    assert [m.confidence for m in mistakes] == sorted((m.confidence for m in mistakes), reverse=True)
    assert f"{MOST_MISTAKES} of {MOST_MISTAKES + 15}, the others are in" in page_of(config)


def test_thumbnails_are_small_jpegs_and_missing_images_are_said_to_be_missing(lab: Lab) -> None:
    config = lab.both({1, 2})
    shard = lab.root / "dataset/images/test-00000.parquet"
    table = pq.read_table(shard)
    pq.write_table(table.filter(pc.not_equal(table["image_id"], lab.ids()[2])), shard)
    (evaluation,) = collect(config).evaluations
    missing, found = evaluation.predictions.mistakes
    assert missing.thumbnail is None
    assert found.thumbnail is not None
    image = cv2.imdecode(np.frombuffer(found.thumbnail, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (SIDE_PX, round(150 * SIDE_PX / 180), 3)
    assert "not in the dataset" in page_of(config)


def test_only_the_shards_of_the_evaluated_split_are_read(lab: Lab) -> None:
    lab.dataset(shards=[{"file": "test-00000.parquet", "split": "test"}, {"file": "gone.parquet", "split": "train"}])
    lab.model("cnn")
    config = ReportConfig(evaluations=(lab.evaluation("cnn", {1}),), output=str(lab.root / "report"))
    assert collect(config).evaluations[0].predictions.mistakes[0].thumbnail


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
    assert write_report(config)["best"] is None


def test_doubts_are_those_of_the_data(lab: Lab) -> None:
    assert titles(lab.both({1, 2, 3})) == ["Few images", "Refused images", "Slide and patient unknown"]


def test_a_model_no_better_than_the_most_frequent_class_may_know_nothing(lab: Lab) -> None:
    config = lab.both({index for index in range(60) if index % 2})
    found = titles(config)
    assert "cnn may know nothing" in found
    assert "cnn misses whole classes" in found
    assert "cnn is too sure of itself" in found


@pytest.mark.parametrize(
    ("metrics", "title"),
    [
        ({"accuracy": 1.0, "val_accuracy": 0.7}, "cnn knows its training images better"),
        ({"best_epoch": 8}, "cnn was still improving"),
        ({"val_accuracy": None}, "cnn was not validated"),
    ],
)
def test_how_training_went_is_doubted(lab: Lab, metrics: dict[str, Any], title: str) -> None:
    lab.dataset()
    lab.model("cnn", **metrics)
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


def test_mcnemar_equals_the_binomial_computed_by_hand() -> None:
    assert exact_mcnemar(0, 0) == 1.0
    assert exact_mcnemar(5, 2) == pytest.approx(2 * (1 + 7 + 21) / 2**7)
    assert exact_mcnemar(3, 0) == pytest.approx(0.25)
    assert exact_mcnemar(4, 4) == 1.0
    assert exact_mcnemar(3000, 2000) < 1e-40


def test_the_most_frequent_mistakes_are_named_first() -> None:
    assert most_confused([[5, 1, 0], [3, 5, 2], [0, 0, 5]], ["a", "b", "c"]) == [
        ("b", "a", 3),
        ("b", "c", 2),
        ("a", "b", 1),
    ]


def test_two_models_with_heavy_plots_and_full_galleries_stay_below_fifteen_megabytes(lab: Lab) -> None:
    lab.images = 5000
    config = lab.both(set(range(0, 5000, 7)), set(range(0, 5000, 9)))
    rng = np.random.default_rng(0)
    for plot in lab.root.rglob("*.png"):
        plot.write_bytes(rng.bytes(600_000))  # the heaviest plot of 100 classes
    noise = cv2.imencode(".jpg", rng.integers(0, 255, (180, 180, 3), np.uint8))[1].tobytes()
    shard = pa.Table.from_pylist([{"image_id": name, "image": noise} for name in lab.ids()])
    pq.write_table(shard, lab.root / "dataset/images/test-00000.parquet")
    assert 10_000_000 < len(page_of(config)) < 15_000_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.25, "1.2 s"), (48.2, "48 s"), (720.0, "12 min"), (11100.0, "3 h 5 min")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
