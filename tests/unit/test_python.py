"""The jobs as Python functions: typed by the settings, checked by them, and what is returned shows itself."""

import logging
import subprocess
import sys
from functools import partial
from inspect import Parameter, signature
from pathlib import Path

import pytest

import lib
from lib import convert, evaluate, predict, run, train
from lib.config.base import JobConfig
from lib.config.chain import PipelineConfig
from lib.config.conversion import ConvertConfig
from lib.config.fitting import TrainConfig
from lib.config.prediction import EvaluateConfig, PredictConfig
from lib.errors import SettingsError
from lib.runs.python import show_messages
from lib.runs.results import Evaluation, Predicted
from lib.runtime import progress
from tests.fakes.records import evaluation_record, predictions_record

ROOT = Path(__file__).parents[2]
FUNCTIONS = {
    convert: ConvertConfig,
    train: TrainConfig,
    evaluate: EvaluateConfig,
    predict: PredictConfig,
    run: PipelineConfig,
}


@pytest.mark.parametrize(("function", "kind"), FUNCTIONS.items(), ids=lambda part: getattr(part, "__name__", part))
def test_its_keywords_are_the_settings_of_the_job(function: object, kind: type[JobConfig]) -> None:
    keywords = signature(function).parameters  # type: ignore[arg-type]
    assert sorted(keywords) == sorted(kind.model_fields)
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    assert {name for name, it in keywords.items() if it.default is Parameter.empty} == required
    assert {it.kind for it in keywords.values()} == {Parameter.KEYWORD_ONLY}
    text = " ".join((function.__doc__ or "").split())
    assert all(" ".join((field.description or "?").split()) in text for field in kind.model_fields.values())


def test_wrong_settings_are_refused_as_the_command_does() -> None:
    with pytest.raises(SettingsError, match=r"^--epochs 0: input should be greater than or equal to 1$"):
        run(source="/s", output="/o", epochs=0)
    with pytest.raises(SettingsError, match=r"^unknown setting 'colour'$"):
        run(source="/s", output="/o", colour="red")  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match=r"^--output is missing$"):
        convert(source="/s")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"run\(\) takes settings by their names"):
        run("/s", "/o")  # type: ignore[misc, call-arg]


def test_a_name_that_there_is_not_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'lib' has no attribute 'fit'"):
        lib.fit  # noqa: B018


@pytest.mark.parametrize(
    ("beforehand", "told"), [("import sys; sys.modules['ray'] = sys", "import lib before ray"), ("", "")]
)
def test_it_is_imported_before_ray_and_starts_without_what_is_slow(beforehand: str, told: str) -> None:
    code = f"{beforehand}\nfrom lib import run\nimport sys; print(*{{'ray', 'tensorflow'}} & set(sys.modules))"
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == []
    assert done.returncode == (1 if told else 0), done.stderr
    assert told in done.stderr


def test_the_log_of_a_call_is_seen_unless_the_program_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = logging.getLogger("lib")
    monkeypatch.setattr(ours, "handlers", [])
    monkeypatch.setattr(ours, "propagate", False)
    show_messages(verbose=False)
    show_messages(verbose=False)
    assert len(ours.handlers) == 1
    assert ours.level == logging.INFO


def test_an_evaluation_shows_its_verdict_and_measures() -> None:
    result = Evaluation("/nowhere", evaluation_record(name="<cnn>"))
    assert result.measures.loc["<cnn>", "accuracy"] == 1.0
    shown = result._repr_html_()
    assert type(shown) is str
    assert shown.startswith("<p><strong>&lt;cnn&gt;: right on 100.0 % of 7 test images")
    assert "<td>1.000</td>" in shown
    assert "<img" not in shown


def test_doubtful_predictions_are_told() -> None:
    result = Predicted("/nowhere", predictions_record(name="cnn", images=7, unfamiliar=2, abstained=0))
    assert result.verdict == "cnn predicted 7 images; 2 unlike any training image."


@pytest.mark.parametrize(
    ("in_notebook", "widgets", "live"), [(True, object(), True), (True, None, False), (False, object(), False)]
)
def test_a_notebook_gets_a_bar_where_it_has_widgets(
    in_notebook: bool, widgets: object, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "Console", partial(progress.Console, force_jupyter=in_notebook))
    monkeypatch.setattr(progress, "find_spec", lambda name: widgets if name == "ipywidgets" else None)
    assert (progress.live_console() is not None) is live
