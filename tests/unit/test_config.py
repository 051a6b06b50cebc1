"""Settings: closed, documented, and every shipped recipe is a command that works."""

import inspect
import os
import pkgutil
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, get_args

import pytest
import yaml
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

import lib.config
from lib.config.base import NOT_IDENTITY, READ_ONLY, URI_FORMS, JobConfig, Settings, absolute_uri
from lib.config.chain import PipelineConfig, StatusConfig
from lib.config.conversion import ConvertConfig, SampleConfig
from lib.config.fitting import FitConfig, TrainConfig
from lib.config.images import ImageConfig
from lib.config.prediction import EvaluateConfig, ExportConfig, PredictConfig
from lib.config.resources import WorkerCount
from lib.errors import SettingsError
from lib.models.spec import parse_spec
from lib.runs.command_line import parse_settings

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "jobs/recipes").glob("*.yaml"))
COMMAND = re.compile(r"#\s*`?python -m jobs\.(\w+) (--config [^`(]*)`?(?:\(.*)?")
MODULES = [import_module(f"lib.config.{module.name}") for module in pkgutil.iter_modules(lib.config.__path__)]
SETTINGS = [
    kind
    for module in MODULES
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Settings) and kind.__module__ == module.__name__
]
BY_NAME = {kind.__name__: kind for kind in SETTINGS}
FIELDS = [(kind, name) for kind in SETTINGS for name in kind.model_fields]


def rules_of(field: FieldInfo) -> list[object]:
    """What checks a setting, also where it may be missing or is one of many."""
    inner = get_args(field.annotation)
    return [*field.metadata, *(rule for part in inner for rule in getattr(part, "__metadata__", ()))]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_every_setting_has_a_help_text(kind: type[Settings], name: str) -> None:
    description = kind.model_fields[name].description
    assert description
    assert description.endswith(".")


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_are_closed_and_do_not_change(kind: type[Settings]) -> None:
    assert kind.model_config.get("extra") == "forbid"
    assert kind.model_config.get("frozen")
    assert kind.__doc__


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if issubclass(kind, JobConfig) and kind is not JobConfig])
def test_every_job_says_where_it_writes(kind: type[JobConfig]) -> None:
    assert kind.model_fields["output"].annotation is not None


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/x", "/data/x"),
        ("/data/x/", "/data/x"),
        ("/data/./y/../x", "/data/x"),
        ("x", "{here}/x"),
        ("./x/../y", "{here}/y"),
        (".", "{here}"),
        ("..", "{above}"),
        ("~/x", "{home}/x"),
        ("file:///data/x/", "/data/x"),
        ("file:///data/y/../x", "/data/x"),
        ("gs://bucket/x", "gs://bucket/x"),
        ("gs://bucket/x/", "gs://bucket/x"),
        ("gdrive://0AbC", "gdrive://0AbC"),
        ("s3://bucket/x/", "s3://bucket/x"),
    ],
)
def test_a_local_path_becomes_absolute_and_another_uri_stays(
    uri: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    here = os.fspath(Path.cwd())
    assert absolute_uri(uri) == expected.format(here=here, above=os.path.dirname(here), home="/home/ada")  # noqa: PTH120
    assert absolute_uri(absolute_uri(uri)) == absolute_uri(uri)


@pytest.mark.parametrize("uri", ["", " ", "\t"])
def test_an_empty_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^empty; expected a local path"):
        absolute_uri(uri)


@pytest.mark.parametrize("uri", ["gs://", "gs:///", "file://"])
def test_a_scheme_alone_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        absolute_uri(uri)


ADDRESSES = [
    (kind, name)
    for kind in SETTINGS
    for name, field in kind.model_fields.items()
    if any(getattr(rule, "func", None) is absolute_uri for rule in rules_of(field))
]


def test_all_addresses_that_a_job_is_given_are_known_here() -> None:
    assert {name for _, name in ADDRESSES} >= {"source", "output", "dataset", "labels", "evaluations", "sweep"}


MOUNT = "mount the share, and give the path of its folder; "
REFUSED = {
    **{f"{scheme}://x/organs": "" for scheme in ("az", "abfs", "ftp", "hdfs", "http", "sftp", "S3")},
    **{f"{scheme}://server/organs": MOUNT for scheme in ("smb", "cifs", "nfs", "SMB")},
    r"\\server\organs": MOUNT,
}


def complaints(kind: type[Settings], name: str, uri: str) -> list[str]:
    """What is said of one address of some settings, of which all others are missing."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({name: [uri] if name == "evaluations" else uri, "colour": "red"})
    problems = [it for it in caught.value.errors() if it["loc"][0] == name and it["type"] == "value_error"]
    return [problem["msg"].removeprefix("Value error, ") for problem in problems]


@pytest.mark.parametrize(("kind", "name"), ADDRESSES, ids=lambda part: getattr(part, "__name__", part))
def test_another_address_is_refused_with_those_that_work(kind: type[Settings], name: str) -> None:
    assert all(form in URI_FORMS for form in ("a local path", "gs://bucket", "gdrive://", "to read, s3://bucket"))
    for uri, advice in REFUSED.items():
        scheme, separator, _ = uri.partition("://")
        assert complaints(kind, name, uri) == [f"cannot open {scheme}{separator}; {advice}expected {URI_FORMS}"]


@pytest.mark.parametrize(("kind", "name"), ADDRESSES, ids=lambda part: getattr(part, "__name__", part))
def test_s3_is_read_by_every_job_and_written_by_none(kind: type[Settings], name: str) -> None:
    is_written = name in {"output", "features", "checks"} and kind is not StatusConfig
    assert complaints(kind, name, "s3://lab/organs") == ([READ_ONLY] if is_written else [])


def test_a_job_that_needs_s3fs_says_so_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SettingsError, match=r"--source.*s3:// needs s3fs \(the extra `s3`\).*: pip install s3fs==2"):
        parse_settings(ConvertConfig, ["--source", "s3://lab/organs", "--output", "dataset"], "convert")
    with pytest.raises(SettingsError, match="the extra `s3`"):
        parse_spec("saved:path=s3://lab/m")


def test_a_map_by_umap_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"model_dir": "/m", "dataset": "/d", "output": "/o"}
    assert EvaluateConfig(**given, maps=("umap",)).maps == ("umap",)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ValidationError, match=r"umap needs umap-learn \(the extra `maps`\), which is not installed"):
        EvaluateConfig(**given, maps=("umap",))
    assert EvaluateConfig(**given).maps == ("pca", "tsne")


def test_a_part_takes_the_settings_that_both_have_and_then_the_changes() -> None:
    whole = PipelineConfig(source="/s", output="/o", image_size=64, epochs=3, seed=7, models=("cnn", "vgg16"))
    convert = whole.part(ConvertConfig, output="/o/dataset", layout="folder")
    assert (convert.source, convert.output, convert.image_size, convert.seed) == ("/s", "/o/dataset", 64, 7)
    assert convert.layout == "folder"
    assert whole.part(FitConfig) == FitConfig(epochs=3)
    assert whole.part(ImageConfig, quality=50) == ImageConfig(image_size=64, quality=50)


def test_a_part_is_validated_like_any_settings() -> None:
    whole = PipelineConfig(source="/s", output="/o")
    with pytest.raises(ValidationError, match="quality"):
        whole.part(ImageConfig, quality=101)
    with pytest.raises(ValidationError, match="colour"):
        whole.part(ImageConfig, colour="red")
    with pytest.raises(ValidationError, match="model_dir"):
        whole.part(EvaluateConfig)


@pytest.mark.parametrize("inputs", [{}, {"dataset": "/d", "source": "/s"}])
def test_training_reads_either_a_dataset_or_a_source(inputs: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give either --dataset or --source"):
        TrainConfig(output="/o", **inputs)
    TrainConfig(output="/o", dataset="/d")
    TrainConfig(output="/o", source="/s")


CONVERSION = {
    "source", "layout", "image_size", "quality", "max_pixels", "max_image_gib", "tiff_range", "tiff_percentiles",
    "tiff_page", "tiff_channels", "tiff_level", "tiff_pages_as", "tiff_alpha", "tiff_orientation", "tiff_constant",
    "images_per_shard", "validation_fraction", "labels", "group_by", "site_by", "duplicates",
    "seed",
}  # fmt: skip
FITTING = {
    "epochs", "batch_size", "learning_rate", "gradient_parts", "patience", "precision", "augment",
    "augmented_features", "class_weight", "sampling", "head", "head_memory_gib", "head_units",
    "fine_tune_epochs", "fine_tune_layers",
    "fine_tune_rate", "fine_tune_decay", "optimizer", "weight_decay", "schedule", "warmup_epochs", "label_smoothing",
    "mixup", "ema", "clip_norm", "keep_epoch",
}  # fmt: skip
APPLYING = {"model_dir", "test_time_augmentation", "logits"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SampleConfig, {"train_per_class", "test_per_class", "seed"}),
        (ConvertConfig, CONVERSION),
        (TrainConfig, FITTING | (CONVERSION - {"layout"}) | {"dataset", "model"}),
        (
            EvaluateConfig,
            APPLYING | {"dataset", "split", "bootstrap_resamples", "maps", "ordered", "costs", "group_answer"},
        ),
        (
            PredictConfig,
            APPLYING | {"source", "images_per_shard", "min_confidence", "group_by", "site_by", "group_answer"},
        ),
        (ExportConfig, {"model_dir", "format", "quantize"}),
    ],
)
def test_a_run_goes_on_unless_a_setting_that_changes_its_result_is_another(
    kind: type[JobConfig], names: set[str]
) -> None:
    given = {name: "/x" for name, field in kind.model_fields.items() if field.is_required()}
    if kind is TrainConfig:
        given["dataset"] = "/d"
    assert kind.identity_fields() == names  # a record in storage has just these: another list refuses earlier runs
    assert set(kind(**given).identity()) == names


def test_a_setting_that_says_nothing_of_it_is_part_of_the_identity() -> None:
    class NewConfig(ExportConfig):
        """With two more settings."""

        colour: tuple[str, ...] = ("red",)
        """Whose."""
        side_by_side: Annotated[int, NOT_IDENTITY] = Field(default=1, ge=1)
        """How many."""

    before = ExportConfig(model_dir="/m", output="/o").identity()
    assert NewConfig(model_dir="/m", output="/p", verbose=True, side_by_side=2).identity() == before | {
        "colour": ["red"]
    }
    with pytest.raises(ValidationError, match="side_by_side"):
        NewConfig(model_dir="/m", output="/o", side_by_side=0)


@pytest.mark.parametrize(
    ("given", "count", "written"),
    [(1, (1, 1), 1), ("3", (3, 3), 3), ("1:4", (1, 4), "1:4"), (WorkerCount(2, 5), (2, 5), "2:5")],
)
def test_a_count_of_workers_is_a_number_or_a_range(given: object, count: tuple[int, int], written: object) -> None:
    settings = FitConfig(num_workers=given)
    assert settings.num_workers == WorkerCount(*count)
    assert settings.model_dump(mode="json")["num_workers"] == written
    assert str(settings.num_workers) == str(written)
    assert FitConfig.model_validate(settings.model_dump()) == settings
    flags = ("--output", "/o", "--dataset", "/d", "--num-workers", str(given))
    assert parse_settings(TrainConfig, flags, "train").num_workers == WorkerCount(*count)


@pytest.mark.parametrize("given", [0, -1, "", "4:2", "1:", ":4", "many", "1:4:8", 1.5, True, None])
def test_what_is_no_count_of_workers_is_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="expected a number"):
        FitConfig(num_workers=given)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_states_a_command_and_the_command_takes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    header = path.read_text().splitlines()[0]
    stated = COMMAND.fullmatch(header)
    assert stated, f"the first line is {header!r}"
    job, arguments = stated[1], shlex.split(stated[2])
    assert arguments[1] == path.relative_to(ROOT).as_posix()
    assert (ROOT / f"jobs/{job}.py").exists()
    settings = parse_settings(BY_NAME[f"{job.capitalize()}Config"], arguments, f"python -m jobs.{job}")
    for spec in getattr(settings, "models", [getattr(settings, "model", "cnn")]):
        parse_spec(spec)
    dumped = settings.model_dump()
    for key, value in yaml.safe_load(path.read_text()).items():
        if not isinstance(value, str | list):
            assert dumped[key] == value


@pytest.mark.parametrize(
    ("augment", "from_scratch", "on_frozen_base"),
    [
        (("auto",), ("flip", "rotate"), ()),
        (("none",), (), ()),
        ((), (), ()),
        (("flip", "stain"), ("flip", "stain"), ("flip", "stain")),
    ],
)
def test_images_are_flipped_and_turned_where_that_costs_nothing_unless_told_otherwise(
    augment: tuple[str, ...], from_scratch: tuple[str, ...], on_frozen_base: tuple[str, ...]
) -> None:
    config = FitConfig(augment=augment)
    assert config.changes(from_scratch=True) == from_scratch
    assert config.changes(from_scratch=False) == on_frozen_base
    assert FitConfig().augment == ("auto",)


@pytest.mark.parametrize("augment", [("none", "flip"), ("flip", "auto")])
def test_none_and_auto_stand_alone(augment: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="stands alone"):
        FitConfig(augment=augment)


def test_few_validation_images_choose_no_epoch_unless_they_are_asked_to() -> None:
    assert [FitConfig().keeps_last(images) for images in (0, 19, 20)] == [True, True, False]
    assert not FitConfig(keep_epoch="best").keeps_last(0)
    assert FitConfig(keep_epoch="last").keeps_last(1000)


@pytest.mark.parametrize(
    ("settings", "epochs", "patience"),
    [
        ({}, 30, 10),
        ({}, 6, 5),
        ({"schedule": "constant"}, 30, 5),
        ({"patience": 3}, 30, 3),
    ],
)
def test_patience_waits_for_the_end_of_a_cosine(settings: dict[str, object], epochs: int, patience: int) -> None:
    assert FitConfig(**settings).patience_in(epochs) == patience
