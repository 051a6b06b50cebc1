"""A model SPEC, `name` or `name:key=value,key=value`, read and checked without importing Keras."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lib.config import absolute_uri
from lib.errors import SettingsError
from lib.models.folder import read_model_record
from lib.storage.filesystem import Location


@dataclass(frozen=True)
class KerasNetwork:
    """One network of Keras Applications.

    Attributes:
        module: Its module in `keras.applications`, which has the preprocessing.
        function: Its constructor in that module.
        smallest: Least side of its input in pixels, without the classifier.
        has_alpha: Whether the constructor takes the width multiplier `alpha`.
    """

    module: str
    function: str
    smallest: int = 32
    has_alpha: bool = False


KERAS_NETWORKS: Mapping[str, KerasNetwork] = {
    "convnext_tiny": KerasNetwork("convnext", "ConvNeXtTiny"),
    "convnext_small": KerasNetwork("convnext", "ConvNeXtSmall"),
    "convnext_base": KerasNetwork("convnext", "ConvNeXtBase"),
    "convnext_large": KerasNetwork("convnext", "ConvNeXtLarge"),
    "convnext_xlarge": KerasNetwork("convnext", "ConvNeXtXLarge"),
    "densenet121": KerasNetwork("densenet", "DenseNet121"),
    "densenet169": KerasNetwork("densenet", "DenseNet169"),
    "densenet201": KerasNetwork("densenet", "DenseNet201"),
    **{f"efficientnet_b{n}": KerasNetwork("efficientnet", f"EfficientNetB{n}") for n in range(8)},
    **{f"efficientnet_v2_b{n}": KerasNetwork("efficientnet_v2", f"EfficientNetV2B{n}") for n in range(4)},
    **{f"efficientnet_v2_{n}": KerasNetwork("efficientnet_v2", f"EfficientNetV2{n.upper()}") for n in "sml"},
    "inception_resnet_v2": KerasNetwork("inception_resnet_v2", "InceptionResNetV2", smallest=75),
    "inception_v3": KerasNetwork("inception_v3", "InceptionV3", smallest=75),
    "mobilenet": KerasNetwork("mobilenet", "MobileNet", has_alpha=True),
    "mobilenet_v2": KerasNetwork("mobilenet_v2", "MobileNetV2", has_alpha=True),
    "mobilenet_v3_large": KerasNetwork("mobilenet_v3", "MobileNetV3Large", has_alpha=True),
    "mobilenet_v3_small": KerasNetwork("mobilenet_v3", "MobileNetV3Small", has_alpha=True),
    "nasnet_large": KerasNetwork("nasnet", "NASNetLarge"),
    "nasnet_mobile": KerasNetwork("nasnet", "NASNetMobile"),
    "resnet50": KerasNetwork("resnet", "ResNet50"),
    "resnet101": KerasNetwork("resnet", "ResNet101"),
    "resnet152": KerasNetwork("resnet", "ResNet152"),
    "resnet50_v2": KerasNetwork("resnet_v2", "ResNet50V2"),
    "resnet101_v2": KerasNetwork("resnet_v2", "ResNet101V2"),
    "resnet152_v2": KerasNetwork("resnet_v2", "ResNet152V2"),
    "vgg16": KerasNetwork("vgg16", "VGG16"),
    "vgg19": KerasNetwork("vgg19", "VGG19"),
    "xception": KerasNetwork("xception", "Xception", smallest=71),
}
CNN, SAVED = "cnn", "saved"
SMALLEST_CNN_INPUT = 8  # three halvings must leave a pixel


@dataclass(frozen=True)
class ModelSpec:
    """What to train.

    Attributes:
        text: The SPEC as given.
        name: `cnn`, `saved`, or a key of `KERAS_NETWORKS`.
        options: The options given, as text.
    """

    text: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """Where the base's weights come from: `imagenet`, `none` or a URI."""
        if self.name == CNN:
            return "none"
        return self.options["path"] if self.name == SAVED else self.options.get("weights", "imagenet")

    @property
    def beginning(self) -> str:
        """What the training starts from, for the log."""
        if self.weights == "none":
            return "all of the network is trained from scratch"
        what = "an earlier model" if self.name == SAVED else "a network"
        return f"a new head is trained on {what} that stays as it is, with weights from {self.weights}"

    @property
    def learning_rate(self) -> float:
        """Step size of Adam that suits what is trained: all of a network, or a linear head on a frozen base."""
        return 1e-3 if self.weights == "none" else 1e-2

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
        raise SettingsError(
            f"unknown model {name!r}; expected one of {', '.join(sorted([CNN, SAVED, *KERAS_NETWORKS]))}"
        )
    pairs = [_option(part, text) for part in listed.split(",") if part]
    options = dict(pairs)
    if len(options) < len(pairs):
        raise SettingsError(f"model {text!r} gives an option twice")
    known = _known_options(name)[name]
    for key in options:
        if key not in known:
            raise SettingsError(f"model {text!r}: unknown option {key!r}; {name} takes {', '.join(known) or 'none'}")
    if name == SAVED and "path" not in options:
        raise SettingsError(f"model {text!r} needs the folder of an earlier model: saved:path=URI")
    return ModelSpec(text, name, _checked(options, text))


def _known_options(name: str) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {CNN: [], SAVED: ["path"]}
    if network := KERAS_NETWORKS.get(name):
        known[name] = ["weights", "alpha"] if network.has_alpha else ["weights"]
    return known


def _option(part: str, text: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or not value:
        raise SettingsError(f"model {text!r}: {part!r} is not key=value")
    return key, value


def _checked(options: dict[str, str], text: str) -> dict[str, str]:
    if "alpha" in options:
        try:
            usable = 0 < float(options["alpha"]) < math.inf
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(f"model {text!r}: alpha is {options['alpha']!r}; expected a positive number")
    try:
        return {key: absolute_uri(value) if _is_uri(key, value) else value for key, value in options.items()}
    except ValueError as error:
        raise SettingsError(f"model {text!r}: {error}") from error


def _is_uri(key: str, value: str) -> bool:
    return key == "path" or (key == "weights" and value not in {"imagenet", "none"})


def check_spec(spec: ModelSpec, image_size: int, coming: Sequence[str] = ()) -> None:
    """Refuse what cannot be built, before anything is started.

    Args:
        spec: The model.
        image_size: Side of the images in pixels.
        coming: Model folders that will exist by the time this one is trained.

    Raises:
        SettingsError: If the images are too small for the network, or its weights or earlier model are missing.
    """
    smallest = KERAS_NETWORKS[spec.name].smallest if spec.name in KERAS_NETWORKS else SMALLEST_CNN_INPUT
    if image_size < smallest:
        raise SettingsError(
            f"--image-size {image_size} is too small for {spec.name}, which needs at least {smallest} pixels"
        )
    if spec.name == SAVED and spec.weights not in coming:
        earlier = read_model_record(Location(spec.weights))
        if earlier["image_size"] != image_size:
            raise SettingsError(
                f"model {spec.text!r} was trained on {earlier['image_size']} px images; --image-size is {image_size}"
            )
    elif _is_uri("weights", spec.weights) and spec.name in KERAS_NETWORKS and not Location(spec.weights).exists():
        raise SettingsError(f"model {spec.text!r}: there is no weights file {spec.weights}")


def folder_names(specs: Sequence[ModelSpec]) -> list[str]:
    """A folder name for each model: the network's name, numbered from the second of the same name on."""
    names: list[str] = []
    for spec in specs:
        earlier = sum(name.rsplit("-", 1)[0] == spec.name or name == spec.name for name in names)
        names.append(f"{spec.name}-{earlier + 1}" if earlier else spec.name)
    return names
