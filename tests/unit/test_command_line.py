"""Settings from default < recipe < flag; whatever is wrong is refused with one line that names it."""

import os
from pathlib import Path
from typing import Any

import pytest

from lib.config.base import SettingsT
from lib.config.chain import PipelineConfig, ReportConfig
from lib.config.conversion import ConvertConfig, SampleConfig
from lib.config.fitting import TrainConfig
from lib.errors import SettingsError
from lib.runs.command_line import parse_settings, report_error

NEEDED = ["--source", "/s", "--output", "/o"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parse(kind: type[SettingsT], *arguments: str, recipe: str | None = None) -> SettingsT:
    if recipe is not None:
        Path("recipe.yaml").write_text(recipe)
        arguments = (*arguments, "--config", "recipe.yaml")
    return parse_settings(kind, arguments, "python -m jobs.test")


def complaint_about(kind: type[SettingsT], *arguments: str, recipe: str | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(kind, *arguments, recipe=recipe)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_flag_is_stronger_than_a_recipe_and_a_recipe_than_the_default() -> None:
    recipe = "image_size: 64\nquality: 80\nsource: /from/recipe\n"
    config = parse(ConvertConfig, "--quality", "70", "--output", "/o", recipe=recipe)
    assert (config.seed, config.image_size, config.quality) == (0, 64, 70)
    assert (config.source, config.output) == ("/from/recipe", "/o")


def test_flags_are_read_wherever_the_recipe_stands_and_however_it_is_given() -> None:
    Path("r.yaml").write_text("quality: 80\nseed: 3")
    for arguments in (
        ["--config", "r.yaml", "--quality", "70", *NEEDED],
        ["--config=r.yaml", "--quality=70", *NEEDED],
        [*NEEDED, "--quality", "70", "--config", "r.yaml"],
    ):
        config = parse(ConvertConfig, *arguments)
        assert (config.quality, config.seed) == (70, 3)


@pytest.mark.parametrize("word", ["none", "stain"])
def test_changes_of_images_are_chosen_or_switched_off_by_flag_and_by_recipe(word: str) -> None:
    assert parse(PipelineConfig, *NEEDED, "--augment", word).augment == (word,)
    assert parse(PipelineConfig, *NEEDED, recipe=f"augment: [{word}]").augment == (word,)
    assert parse(PipelineConfig, *NEEDED).augment == ("auto",)


def test_lists_and_booleans_come_from_recipes_and_from_flags() -> None:
    recipe = "models: [cnn, 'mobilenet:alpha=0.25']\nuse_gpu: true\nlearning_rate: 0.5\n"
    config = parse(PipelineConfig, *NEEDED, recipe=recipe)
    assert config.models == ("cnn", "mobilenet:alpha=0.25")
    assert (config.use_gpu, config.learning_rate) == (True, 0.5)
    config = parse(PipelineConfig, *NEEDED, "--models", "vgg16", "vgg19", "--no-use-gpu", recipe=recipe)
    assert (config.models, config.use_gpu) == (("vgg16", "vgg19"), False)
    assert parse(PipelineConfig, *NEEDED, "--use-gpu").use_gpu
    assert parse(PipelineConfig, *NEEDED).models == ("cnn",)
    assert parse(PipelineConfig, *NEEDED, "--learning-rate", "None", recipe=recipe).learning_rate is None


def test_an_empty_recipe_changes_nothing() -> None:
    assert parse(ConvertConfig, *NEEDED, recipe="# only a comment\n") == parse(ConvertConfig, *NEEDED)


def test_local_paths_become_absolute() -> None:
    config = parse(ReportConfig, "--evaluations", "a", "b", recipe="output: ./c/../d")
    here = Path.cwd()
    assert config.evaluations == (f"{here}/a", f"{here}/b")
    assert config.output == f"{here}/d"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*NEEDED, "--colour", "red"], "--colour"),
        ([*NEEDED, "--qualty", "70"], "did you mean --quality?"),
        ([*NEEDED, "stray"], "stray"),
        (["--source", "/s"], "--output"),
        (["--output", "/o"], "--source"),
        ([*NEEDED, "--quality", "high"], "--quality"),
        ([*NEEDED, "--quality"], "--quality"),
        ([*NEEDED, "--quality", "101"], "--quality 101: input should be less than or equal to 100"),
        ([*NEEDED, "--validation-fraction", "1"], "--validation-fraction 1.0"),
        ([*NEEDED, "--layout", "zip"], "--layout"),
        ([*NEEDED, "--source", ""], "--source ''"),
        ([*NEEDED, "--config"], "--config needs the path"),
        ([*NEEDED, "--config="], "--config needs the path"),
        ([*NEEDED, "--config", "gone.yaml"], "--config gone.yaml: there is no such file"),
        ([*NEEDED, "--config", "az://b/r.yaml"], "az://b/r.yaml"),
    ],
)
def test_a_wrong_command_line_is_refused_by_name(arguments: list[str], named: str) -> None:
    assert named in complaint_about(ConvertConfig, *arguments)


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ("colour: red", "unknown setting 'colour'"),
        ("image-size: 64", "unknown setting 'image-size'"),
        ("quality: high", "--quality 'high'"),
        ("quality: 101", "--quality 101"),
        ("quality: null", "--quality None"),
        ("verbose: perhaps", "--verbose 'perhaps'"),
        ("source: 3", "--source 3"),
        ("layout: zip", "--layout 'zip'"),
        ("layout: |\n  a\n  b", "--layout"),
        ("- quality", "holds a list"),
        ("quality", "holds a str"),
        ("quality: [", "is not YAML"),
        ("a: 1: 2", "is not YAML"),
        ("1: 2", "keys should be strings"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(recipe: str, named: str) -> None:
    complaint = complaint_about(ConvertConfig, *NEEDED, recipe=recipe)
    assert named in complaint
    assert "recipe.yaml" in complaint


def test_a_bad_value_in_a_recipe_is_refused_even_where_a_flag_replaces_it() -> None:
    assert "--quality 101" in complaint_about(ConvertConfig, *NEEDED, "--quality", "70", recipe="quality: 101")


def test_a_list_of_nothing_is_refused() -> None:
    assert "--models" in complaint_about(PipelineConfig, *NEEDED, recipe="models: []")
    assert "--models 'cnn'" in complaint_about(PipelineConfig, *NEEDED, recipe="models: cnn")


def test_all_bad_values_are_named_at_once() -> None:
    complaint = complaint_about(SampleConfig, "--output", "/o", "--train-per-class", "1", "--seed", "-1")
    assert "--train-per-class 1" in complaint
    assert "--seed -1" in complaint


def test_a_list_of_bad_values_is_not_called_empty_too() -> None:
    line = complaint_about(ReportConfig, "--output", "/o", "--evaluations", "az://lab/e")
    assert line.startswith("--evaluations 'az://lab/e': cannot open az://; expected")
    assert "at least" not in line


def test_settings_that_contradict_each_other_are_refused() -> None:
    expected = "give either --dataset or --source"
    assert complaint_about(TrainConfig, "--output", "/o") == expected
    assert complaint_about(TrainConfig, "--output", "/o", "--dataset", "/d", recipe="source: /s") == expected


def test_a_folder_as_recipe_is_a_wrong_setting() -> None:
    Path("folder").mkdir()
    assert "--config folder" in complaint_about(ConvertConfig, *NEEDED, "--config", "folder")


def test_a_boolean_is_no_number() -> None:
    assert "--quality True" in complaint_about(ConvertConfig, *NEEDED, recipe="quality: true")


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(ConvertConfig, "--help")
    assert not stop.value.code
    text = capsys.readouterr().out
    for name in ConvertConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    assert "python -m jobs.test" in text
    assert "JPEG quality of the converted images" in text
    assert "95" in text
    assert "--config recipe.yaml" in text


def test_help_shows_the_values_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(ConvertConfig, "--help", recipe="quality: 83")
    assert "83" in capsys.readouterr().out


def test_a_complaint_leaves_the_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in ("77", None):
        if before:
            monkeypatch.setenv("COLUMNS", before)
        else:
            monkeypatch.delenv("COLUMNS")
        complaint_about(ConvertConfig, *NEEDED, "--colour", "red")
        assert os.environ.get("COLUMNS") == before


@pytest.mark.parametrize(
    "message",
    [
        "gs://b/x[1].tif: [bold]gone[/bold]",
        "a " + "long " * 60 + "line",
        pytest.param("/data/a:fire:b"),
    ],
)
def test_an_error_is_reported_as_one_line_as_it_is(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    report_error(message)
    captured: Any = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {message}\n")
