"""The models that `--models auto` chooses from, and which of them cannot be had here."""

from collections.abc import Mapping

from lib.config.chain import AUTO, PipelineConfig
from lib.errors import SettingsError, TissueError, in_one_line
from lib.models.spec import SAVED, ModelSpec, check_spec, folder_names, parse_spec
from lib.training.trainer import check_fit, require_weights_of

FLAG = f"--models {AUTO}"


def plan_candidates(config: PipelineConfig) -> dict[str, ModelSpec]:
    """The candidates by name, in the order given, checked without starting anything.

    Raises:
        SettingsError: If one cannot be a candidate, or settings do not go together with a choice.
    """
    specs = [parse_spec(text) for text in config.candidates]
    if len({spec.text for spec in specs}) < len(specs):
        raise SettingsError(f"{FLAG}: a SPEC is given twice")
    if any(spec.name == SAVED for spec in specs):
        raise SettingsError(f"{FLAG} cannot try {SAVED}: models: they may have learned from the images that judge them")
    if config.head != "solved":
        raise SettingsError(
            f"{FLAG} compares pre-trained networks by their solved heads; leave out --head {config.head}"
        )
    check_fit(config, specs)
    if config.models[1:]:  # of the usual ones, those that do not fit are named and left out
        for spec in specs:
            check_spec(spec, config.image_size)
    return dict(zip(folder_names(specs), specs, strict=True))


def find_missing(plan: Mapping[str, ModelSpec], image_size: int) -> dict[str, str]:
    """Why some candidates cannot be tried: their weights cannot be had, or images are too small; by name.

    Raises:
        TissueError: If none is left.
    """
    reasons = {}
    for name, spec in plan.items():
        try:
            check_spec(spec, image_size)
            require_weights_of([spec], image_size)
        except TissueError as error:
            reasons[name] = in_one_line(error)
    if len(reasons) == len(plan):
        raise TissueError(f"{FLAG}: no candidate can be tried; {describe_missing(plan, reasons)}")
    return reasons


def describe_missing(plan: Mapping[str, ModelSpec], reasons: Mapping[str, str]) -> str:
    """`resnet50 is left out: no weights; vgg16 is left out: ...`, and that no pre-trained network is left, if so."""
    told = [f"{name} is left out: {reason}" for name, reason in reasons.items()]
    left = [spec for name, spec in plan.items() if name not in reasons]
    if left and not any(spec.has_frozen_base for spec in left):
        told.append("no pre-trained network is left to try")
    return "; ".join(told)
