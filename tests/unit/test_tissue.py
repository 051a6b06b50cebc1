"""`tissue`, one command for every job: its help is a story, names are forgiven, and a shell completes its words."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs.__main__ import JOBS, RECIPES, main, settings_of, with_recipe
from lib import __version__
from lib.config.chain import PipelineConfig
from lib.runs.completion import SHELLS, completion_script
from lib.runtime import package
from lib.runtime.package import command
from tests.unit import test_documents

ROOT = Path(__file__).parents[2]
COMPLETE = 'COMP_WORDS=({words} "{word}"); COMP_CWORD={place}; _tissue; printf "%s\\n" "${{COMPREPLY[@]}}"'


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tissue", *arguments])
    return main()


def test_it_knows_every_job_with_its_settings() -> None:
    assert {job: settings_of(job) for job in JOBS} == test_documents.JOBS
    assert sorted(JOBS) == sorted(file.stem for file in (ROOT / "jobs").glob("[a-z]*.py"))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_its_help_tells_the_jobs_as_a_story(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^  (\w+) +[A-Z]", text, re.MULTILINE) == JOBS
    assert text.index("To try it") < text.index("From a folder of TIFFs to a report") < text.index("While it runs")
    assert "Recipes, for --config NAME: demo, mobilenet, notebook" in text
    assert "completion" not in text  # of a command that is not installed here


def test_a_job_gets_its_arguments_and_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--output", "/o") == 2
    assert "give either --dataset or --source" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(monkeypatch, "convert", "--help")
    assert capsys.readouterr().out.startswith("usage: python -m jobs.convert --source")


@pytest.mark.parametrize(
    ("name", "told"),
    [("trian", "(did you mean train?)"), ("x", "expected one of sample, doctor"), ("completion", "zsh")],
)
def test_a_job_that_there_is_not_is_answered_with_those_there_are(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, name) == 2
    assert told in capsys.readouterr().err


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out.split() == [__version__] == [stated]


def test_a_recipe_of_ours_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = str(RECIPES / "notebook.yaml")
    assert with_recipe(["--config", "notebook", "--seed", "1"]) == ["--config", notebook, "--seed", "1"]
    assert with_recipe(["--config=notebook"]) == ["--config", notebook]
    assert with_recipe(["--models", "notebook", "--config", "none"]) == ["--models", "notebook", "--config", "none"]
    Path("notebook").touch()
    assert with_recipe(["--config", "notebook"]) == ["--config", "notebook"]


def test_messages_say_what_is_typed_where_the_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("train") == "python -m jobs.train"
    monkeypatch.setattr(package, "NAME", "tissue")
    assert command("train") == "tissue train"


@pytest.mark.parametrize(
    ("words", "word", "completed"),
    [
        (["tissue"], "p", ["pipeline", "predict"]),
        (["tissue", "pipeline"], "--tiff-p", ["--tiff-percentiles", "--tiff-page", "--tiff-pages-as"]),
        (["tissue", "pipeline", "--layout"], "", ["shards", "folder"]),
        (["tissue", "pipeline"], "--no-use", ["--no-use-gpu"]),
        (["tissue", "pipeline", "--source"], "or", []),
    ],
)
def test_bash_completes_jobs_flags_and_words(words: list[str], word: str, completed: list[str]) -> None:
    script = completion_script("bash", {"pipeline": PipelineConfig, "predict": PipelineConfig})
    asked = COMPLETE.format(words=" ".join(words), word=word, place=len(words))
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(completed)


def test_zsh_takes_the_functions_of_bash_and_fish_has_lines_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SHELLS == ("bash", "zsh", "fish")
    jobs = {"pipeline": PipelineConfig}
    begin, _, rest = completion_script("zsh", jobs).partition("\n")
    assert "bashcompinit" in begin
    assert rest == completion_script("bash", jobs)
    assert run(monkeypatch, "completion", "fish") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "complete -c tissue -n __fish_use_subcommand -f -a train" in lines
    assert 'complete -c tissue -n "__fish_seen_subcommand_from sample" -l train-per-class' in lines
    assert 'complete -c tissue -n "__fish_seen_subcommand_from convert" -l layout -x -a "shards folder"' in lines
