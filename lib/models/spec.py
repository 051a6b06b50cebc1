"""A model SPEC, `name` or `name:key=value,key=value`, read and checked without importing Keras."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from urllib.parse import urlsplit

from lib.config.base import absolute_uri
from lib.errors import SettingsError
from lib.folders.model import ModelRecord
from lib.folders.output import read_complete
from lib.folders.preset import CONFIG_FILE, read_preset
from lib.models.channels import MEAN, STD, channel_values
from lib.models.networks import KERAS_NETWORKS
from lib.runtime.package import NAME
from lib.storage.location import Location

CNN, CNN_BN, SAVED, HUB, ONNX, KERAS_HUB = "cnn", "cnn_bn", "saved", "hub", "onnx", "keras_hub"
OWN = (CNN, CNN_BN)
"""Networks of this project, which are trained from scratch and need no download."""
SMALLEST_INPUT = {CNN: 8, CNN_BN: 16}  # three and four halvings must leave a pixel
SHA256 = re.compile(r"[0-9a-f]{64}")
SAVED_MODEL_FILE, TF1_HUB_FILE = "saved_model.pb", "tfhub_module.pb"
TF1_FORMAT = (
    f"in the old TF1 Hub format ({TF1_HUB_FILE}), which Keras 3 cannot use; take the TF2 SavedModel of the same network"
)
ARCHIVE_ENDINGS, ONNX_ENDING = (".tar.gz", ".tgz"), ".onnx"
HANDLE = "https://"
PATHS = {
    SAVED: "the folder of an earlier model",
    HUB: "the folder of a SavedModel",
    ONNX: f"an {ONNX_ENDING} file, or the folder of one",
    KERAS_HUB: "the folder of an encoder (or preset=NAME)",
}
POOLS = ("cls", "mean", "cls_mean")
PRESET_KINDS = {
    **{kind: kind for kind in ("DINOV2Backbone", "DINOV3Backbone", "SigLIPBackbone", "ViTBackbone")},
    "dinov2": "DINOV2Backbone",
    "dinov2_with_registers": "DINOV2Backbone",
    "dinov3_vit": "DINOV3Backbone",
    "vit": "ViTBackbone",
}
"""The backbones of KerasHub that can be used, by their own name and by Hugging Face's."""
CLOSED = {HUB: "a TF Hub SavedModel", ONNX: "an ONNX network"}
"""Bases without layers that Keras could train."""
OPENED_BY = {
    HUB: f"`custom_objects={NAME}.models.hub.SAVED_MODEL_LAYERS`",
    ONNX: f"`import {NAME}.models.onnx_encoder`",
}
"""What a program needs of this project to open a `model.keras` on such a base with Keras."""
CHOICES = {"normalise": ("channels", "none"), "pool": POOLS, "taps": ("stages", "last")}
"""What some options may be, by default the first: how the CNN brings its inputs to one scale, what stands for an image
in a transformer, and what the features of a frozen network are made from: the end of each resolution or its last
layer."""


@dataclass(frozen=True)
class ModelSpec:
    """What to train.

    Attributes:
        text: The SPEC as given.
        name: `cnn`, `cnn_bn`, `saved`, `hub`, `onnx`, `keras_hub`, or a key of `KERAS_NETWORKS`.
        options: The options given, as text.
    """

    text: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def weights(self) -> str:
        """Where the base's weights come from: `imagenet`, `none` or a URI."""
        if self.name in OWN:
            return "none"
        return self.options.get("path") or self.options.get("preset") or self.options.get("weights", "imagenet")

    @property
    def has_frozen_base(self) -> bool:
        """Whether a new head is trained on a base that stays as it is, rather than all of a network from scratch."""
        return self.weights != "none"

    @property
    def has_middle_features(self) -> bool:
        """Whether a frozen base gives features of all its resolutions rather than of its last layer alone."""
        return self.name in KERAS_NETWORKS and self.has_frozen_base and self.options.get("taps", "stages") == "stages"

    @property
    def sha256(self) -> str | None:
        """What the weights are, in hexadecimal, if that is demanded; as `model.json` tells it."""
        return self.options.get("sha256")

    @property
    def is_handle(self) -> bool:
        """Whether the weights are downloaded from an address of TF Hub."""
        return self.weights.startswith(HANDLE)

    @property
    def is_archive(self) -> bool:
        """Whether the weights are a SavedModel in a `.tar.gz`."""
        return self.name == HUB and (self.is_handle or self.weights.endswith(ARCHIVE_ENDINGS))

    @property
    def is_folder(self) -> bool:
        """Whether the weights are all files of a folder."""
        if self.name == ONNX:
            return not self.weights.endswith(ONNX_ENDING)
        return (self.name == HUB and not self.is_archive) or (self.name == KERAS_HUB and "path" in self.options)

    @property
    def changes_of_features(self) -> dict[str, str]:
        """The options that features depend on besides the weights."""
        return {key: value for key, value in self.options.items() if key not in {"path", "preset", "weights", "sha256"}}

    @property
    def output(self) -> str | None:
        """Which output of a SavedModel or ONNX network has the features; None where it has just one."""
        return self.options.get("output")

    @property
    def beginning(self) -> str:
        """What the training starts from, for the log."""
        if not self.has_frozen_base:
            return "the whole network is trained from scratch"
        what = {SAVED: "an earlier model", HUB: "a SavedModel", ONNX: "an ONNX network", KERAS_HUB: "an encoder"}.get(
            self.name, "a network"
        )
        return f"a new head is trained on {what}, which stays frozen (weights: {self.weights})"

    @property
    def learning_rate(self) -> float:
        """Step size of Adam that suits what is trained: all of a network, or a linear head on a frozen base."""
        if self.has_frozen_base:
            return 1e-2
        return 3e-3 if self.name == CNN_BN else 1e-3

    @property
    def normalises(self) -> bool:
        """Whether the CNN standardises the channels of its images by the training set."""
        return self.options.get("normalise") != "none"

    @property
    def alpha(self) -> float:
        """Width multiplier, positive."""
        return float(self.options.get("alpha", "1"))


def parse_spec(text: str) -> ModelSpec:
    """Read a SPEC.

    Raises:
        SettingsError: If the model or an option is unknown, or an option's value is bad.
    """
    name, _, listed = text.partition(":")
    if name not in _known_options(name):
        known_names = sorted([*OWN, *PATHS, *KERAS_NETWORKS])
        near = f" (did you mean {' or '.join(some)}?)" if (some := _near(name, known_names)) else ""
        raise SettingsError(f"unknown model {name!r}{near}; expected one of {', '.join(known_names)}")
    pairs = [_option(part, text) for part in listed.split(",") if part]
    options = dict(pairs)
    if len(options) < len(pairs):
        raise SettingsError(f"model {text!r} has an option twice")
    known = _known_options(name)[name]
    for key in options:
        if key not in known:
            raise SettingsError(f"model {text!r}: unknown option {key!r}; {name} takes {', '.join(known) or 'none'}")
    if name in PATHS and len({"path", "preset"} & set(options)) != 1:
        raise SettingsError(f"model {text!r} needs {PATHS[name]}: {name}:path=URI")
    return ModelSpec(text, name, _checked(name, options, text))


def _near(name: str, known: Sequence[str]) -> list[str]:
    """At most four known names that somebody may have meant: written otherwise, or the first word of them."""
    plain = {one.replace("_", ""): one for one in known}
    wanted = re.sub(r"[\W_]", "", name.lower())
    begins = [one for short, one in plain.items() if wanted and short.startswith(wanted)]
    return (begins or [plain[short] for short in get_close_matches(wanted, plain, cutoff=0.7)])[:4]


def _known_options(name: str) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {CNN: ["normalise"], CNN_BN: [], SAVED: ["path"], HUB: ["path", "output", "sha256"]}
    known[ONNX] = ["path", "output", "size", MEAN, STD, "sha256"]
    known[KERAS_HUB] = ["path", "preset", "pool", "size", MEAN, STD, "sha256"]
    if network := KERAS_NETWORKS.get(name):
        known[name] = ["weights", "taps", "sha256", *(["alpha"] if network.has_alpha else [])]
    return known


def _option(part: str, text: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or not value:
        raise SettingsError(f"model {text!r}: {part!r} is not key=value")
    return key, value


def _checked(name: str, options: dict[str, str], text: str) -> dict[str, str]:
    if "sha256" in options:
        options = options | {"sha256": options["sha256"].lower()}
    problem = next(_problems(options), None)
    if problem is not None:
        raise SettingsError(f"model {text!r}: {problem}")
    try:
        return {key: _located(name, value) if _is_uri(key, value) else value for key, value in options.items()}
    except ValueError as error:
        raise SettingsError(f"model {text!r}: {error}") from error


def _located(name: str, uri: str) -> str:
    """A URI of ours; for a SavedModel an address of TF Hub too, the one thing that is read from the web."""
    if name != HUB or not uri.startswith(HANDLE):
        return absolute_uri(uri)
    if not urlsplit(uri).hostname:
        raise ValueError(f"{uri} names no server; expected {HANDLE}server/path")
    return uri


def _problems(options: dict[str, str]) -> Iterator[str]:
    """What is wrong with options that the model knows."""
    for key, known in CHOICES.items():
        if key in options and options[key] not in known:
            yield f"{key} is {options[key]!r}; expected {', '.join(known[:-1])} or {known[-1]}"
    if "alpha" in options and not _is_positive(options["alpha"]):
        yield f"alpha is {options['alpha']!r}; expected a positive number"
    if not re.fullmatch("[1-9][0-9]{0,4}", options.get("size", "1")):
        yield f"size is {options['size']!r}; expected a number of pixels"
    for key in (MEAN, STD):
        try:
            channel_values(options, key)
        except ValueError as error:
            yield str(error)
    if not SHA256.fullmatch(options.get("sha256", "0" * 64)):
        yield f"sha256 is {options['sha256']!r}; expected 64 hexadecimal digits"
    elif (
        "sha256" in options
        and not {"path", "preset"} & set(options)
        and not _is_uri("weights", options.get("weights", "imagenet"))
    ):
        yield "sha256 needs weights=URI, whose checksum it is"


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _is_uri(key: str, value: str) -> bool:
    return key == "path" or (key == "weights" and value not in {"imagenet", "none"})


def check_spec(spec: ModelSpec, image_size: int, coming: Sequence[str] = ()) -> None:
    """Refuse what cannot be built, before anything is started.

    Args:
        image_size: Side of the images in pixels.
        coming: Model folders that will exist by the time this one is trained.

    Raises:
        SettingsError: If the images are too small for the network, or what it starts from is missing or unfit.
    """
    smallest = _smallest_input(spec)
    if image_size < smallest:
        raise SettingsError(
            f"images of {image_size} px (see --image-size) are too small for {spec.name}, which needs at least "
            f"{smallest} pixels"
        )
    if spec.name == SAVED and spec.weights not in coming:
        _check_earlier(spec, image_size)
    elif spec.name == HUB:
        _check_saved_model(spec)
    elif spec.name == ONNX:
        _check_onnx(spec)
    elif spec.name == KERAS_HUB:
        _check_encoder(spec)
    elif spec.name in KERAS_NETWORKS and _is_uri("weights", spec.weights) and not Location(spec.weights).exists():
        raise SettingsError(f"model {spec.text!r}: no weights file at {spec.weights}")


def _smallest_input(spec: ModelSpec) -> int:
    if spec.name in KERAS_NETWORKS:
        return KERAS_NETWORKS[spec.name].smallest
    return SMALLEST_INPUT.get(spec.name, 1)  # the others know their size themselves


def _check_earlier(spec: ModelSpec, image_size: int) -> None:
    earlier = read_complete(Location(spec.weights), ModelRecord)
    if earlier.image_size != image_size:
        raise SettingsError(
            f"model {spec.text!r} was trained on images of {earlier.image_size} px, and these have {image_size} px; "
            f"it goes on with --image-size {earlier.image_size}"
        )


def _check_saved_model(spec: ModelSpec) -> None:
    if spec.is_handle:
        return
    folder = Location(spec.weights)
    if spec.is_archive and folder.is_file():
        return
    if (folder / TF1_HUB_FILE).exists():
        raise SettingsError(f"model {spec.text!r} is {TF1_FORMAT}")
    if not (folder / SAVED_MODEL_FILE).exists():
        raise SettingsError(
            f"model {spec.text!r} is not a SavedModel: it has no {SAVED_MODEL_FILE}; give the folder that holds it, "
            f"or its archive ({ARCHIVE_ENDINGS[0]})"
        )


def _check_onnx(spec: ModelSpec) -> None:
    if find_spec("onnxruntime") is None:
        raise SettingsError(f"model {spec.text!r} needs ONNX Runtime: pip install onnxruntime")
    if not Location(spec.weights).exists():
        raise SettingsError(f"model {spec.text!r}: there is nothing at {spec.weights}")
    if not spec.is_folder and not Location(spec.weights).is_file():
        raise SettingsError(f"model {spec.text!r}: {spec.weights} is no file")


def _check_encoder(spec: ModelSpec) -> None:
    if find_spec("keras_hub") is None:
        raise SettingsError(f"model {spec.text!r} needs KerasHub: pip install keras-hub tensorflow-text safetensors")
    if not spec.is_folder:
        return
    if not (Location(spec.weights) / CONFIG_FILE).is_file():
        raise SettingsError(f"model {spec.text!r} is no encoder: there is no {CONFIG_FILE} in {spec.weights}")
    kind = read_preset(Location(spec.weights)).kind
    if kind not in PRESET_KINDS:
        raise SettingsError(f"model {spec.text!r} is a {kind}; expected one of {', '.join(PRESET_KINDS)}")


def folder_names(specs: Sequence[ModelSpec]) -> list[str]:
    """A folder name for each model: the network's name, numbered from the second of the same name on."""
    names: list[str] = []
    for spec in specs:
        earlier = sum(name.rsplit("-", 1)[0] == spec.name or name == spec.name for name in names)
        names.append(f"{spec.name}-{earlier + 1}" if earlier else spec.name)
    return names
