"""What `--models auto` chooses from: what it refuses before anything starts, and what it names and leaves out."""

from collections.abc import Iterable

import pytest

from lib.config.chain import CANDIDATES, PipelineConfig
from lib.errors import SettingsError, TissueError
from lib.evaluation.choice.candidates import describe_missing, find_missing, plan_candidates
from lib.models.spec import ModelSpec, parse_spec
from lib.runs.command_line import parse_settings
from lib.runs.pipeline import plan_models


def config_of(*models: str, **settings: object) -> PipelineConfig:
    return PipelineConfig.model_validate({"source": "/s", "output": "/o", "models": models} | settings)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ImageNet weights can be had."""

    def refuse(specs: Iterable[ModelSpec], _: int) -> None:
        for spec in specs:
            if spec.weights == "imagenet":
                raise TissueError(f"the ImageNet weights of {spec.name} are not on this machine")

    monkeypatch.setattr("lib.evaluation.choice.candidates.require_weights_of", refuse)


def test_the_usual_candidates_are_a_network_from_scratch_and_encoders_and_stand_in_the_help() -> None:
    plan = plan_models(config_of("auto"))
    assert tuple(plan) == CANDIDATES
    assert [spec.has_frozen_base for spec in plan.values()] == [False, True, True, True]
    help_text = PipelineConfig.model_fields["models"].description
    assert help_text is not None
    assert all(f"`{name}`" in help_text for name in CANDIDATES)


def test_specs_after_auto_are_the_candidates_and_two_of_a_kind_are_told_apart() -> None:
    plan = plan_models(config_of("auto", "cnn", "vgg16:weights=none", "vgg16"))
    assert {name: spec.text for name, spec in plan.items()} == {
        "cnn": "cnn",
        "vgg16": "vgg16:weights=none",
        "vgg16-2": "vgg16",
    }


@pytest.mark.parametrize("models", [("cnn", "auto"), ("auto", "auto"), ("auto", "cnn", "auto")])
def test_auto_stands_first_and_once(models: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as refusal:
        parse_settings(PipelineConfig, ["--source", "/s", "--output", "/o", "--models", *models], "pipeline")
    assert "auto stands first, before the SPECs to choose from, and once" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        (("cnn", "cnn"), {}, "a SPEC is given twice"),
        (("cnn", "saved:path=/m"), {}, "they may have learned from the images that judge them"),
        (("cnn", "vgg16"), {"head": "adam"}, "leave out --head adam"),
        (("cnn", "no_such_network"), {}, "unknown model 'no_such_network'"),
        (("cnn", "vgg16:weights=/no/such/file.h5"), {}, "no weights file at /no/such/file.h5"),
        (("cnn", "inception_v3"), {"image_size": 64}, "too small for inception_v3"),
        (("cnn",), {"batch_size": 2, "num_workers": 4}, "too small for --num-workers"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(
    models: tuple[str, ...], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_candidates(config_of("auto", *models, **settings))


@pytest.mark.usefixtures("offline")
def test_candidates_without_weights_are_named_and_it_is_told_that_no_encoder_is_left() -> None:
    plan = plan_candidates(config_of("auto", "cnn", "vgg16", "vgg19"))
    missing = find_missing(plan, 64)
    assert list(missing) == ["vgg16", "vgg19"]
    told = describe_missing(plan, missing)
    assert told.startswith("vgg16 is left out: the ImageNet weights of vgg16 are not on this machine; vgg19 is left")
    assert told.endswith("no pre-trained network is left to try")


@pytest.mark.usefixtures("offline")
def test_nothing_is_told_of_encoders_where_one_is_left() -> None:
    plan = {"hub": parse_spec("keras_hub:preset=some"), "vgg16": parse_spec("vgg16")}
    assert "no pre-trained" not in describe_missing(plan, {"vgg16": "no weights"})


@pytest.mark.usefixtures("offline")
def test_a_choice_without_candidates_is_refused() -> None:
    with pytest.raises(TissueError, match=r"no candidate can be tried; vgg16 is left out"):
        find_missing(plan_candidates(config_of("auto", "vgg16")), 64)


@pytest.mark.usefixtures("offline")
def test_of_the_usual_candidates_those_that_need_larger_images_are_left_out() -> None:
    plan = plan_candidates(config_of("auto", image_size=24))
    assert find_missing(plan, 24).keys() == set(CANDIDATES) - {"cnn_bn"}
    assert "needs at least 32 pixels" in find_missing(plan, 24)["resnet50"]
