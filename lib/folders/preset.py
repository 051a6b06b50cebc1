"""A folder with an encoder as KerasHub or Hugging Face writes it: `config.json`, and how its images are prepared."""

from dataclasses import dataclass

from pydantic import JsonValue

from lib.errors import StorageError
from lib.storage.location import Location

CONFIG_FILE = "config.json"
CHANNELS = 3
KERAS_IMAGES_FILE, TRANSFORMERS_IMAGES_FILE = "image_converter.json", "preprocessor_config.json"


@dataclass(frozen=True)
class Preset:
    """What a folder says of its encoder.

    Attributes:
        kind: The class of its backbone in KerasHub (`DINOV2Backbone`), or its `model_type` in Hugging Face (`dinov2`).
        mean: Of red, green and blue, which are from 0 to 1, that its images are centred by; None if it does not say.
        std: By which they are divided then.
    """

    kind: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_preset(folder: Location) -> Preset:
    """What is known of an encoder without loading it.

    Raises:
        StorageError: If the folder is none of an encoder, or cannot be read.
    """
    config = (folder / CONFIG_FILE).read_json()
    if "registered_name" in config:
        kind = str(config["registered_name"]).rpartition(">")[2]
        return Preset(kind, *_of_keras(_optional(folder / KERAS_IMAGES_FILE)))
    if "model_type" in config:
        return Preset(str(config["model_type"]), *_of_transformers(_optional(folder / TRANSFORMERS_IMAGES_FILE)))
    raise StorageError(f"{folder.uri}/{CONFIG_FILE} names no encoder of KerasHub or Hugging Face")


def _optional(file: Location) -> dict[str, JsonValue]:
    return file.read_json() if file.is_file() else {}


def _of_keras(images: dict[str, JsonValue]) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """KerasHub multiplies values from 0 to 255 by `scale` and adds `offset`."""
    settings = images.get("config")
    if not isinstance(settings, dict) or settings.get("scale") is None:
        return None, None
    scale, offset = _three(settings["scale"]), _three(settings.get("offset") or 0.0)
    std = tuple(1 / (255 * factor) for factor in scale)
    return tuple(-shift * deviation for shift, deviation in zip(offset, std, strict=True)), std


def _of_transformers(images: dict[str, JsonValue]) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    if images.get("do_normalize") is False:
        return _three(0.0), _three(1.0)
    if "image_mean" not in images or "image_std" not in images:
        return None, None
    return _three(images["image_mean"]), _three(images["image_std"])


def _three(value: JsonValue) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value] * CHANNELS
    numbers = tuple(float(part) for part in values if isinstance(part, int | float))
    if len(numbers) != CHANNELS or len(values) != CHANNELS:
        raise StorageError(f"an encoder's images are prepared with {value!r}; expected a number or three")
    return numbers
