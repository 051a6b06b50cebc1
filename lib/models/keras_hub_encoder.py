"""A transformer of KerasHub as a base: `keras_hub:path=FOLDER` or `keras_hub:preset=NAME`.

Options: `pool`, `size`, `mean`, `std`, `sha256`. A folder may have the form of KerasHub (`save_to_preset`) or of
Hugging Face (`config.json` and `model.safetensors`), which KerasHub converts without PyTorch.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from lib.errors import SettingsError, TissueError, one_line
from lib.folders.preset import read_preset
from lib.models.channels import CHANNELS, MEAN, STD, channel_values
from lib.models.inputs import image_input, standardised
from lib.models.spec import KERAS_HUB, PRESET_KINDS, ModelSpec
from lib.models.weights import copy_folder, folder_digest, require_digest
from lib.storage.location import Location

SPECIAL_TOKENS: Mapping[str, Callable[[Any], int]] = {
    "DINOV2Backbone": lambda backbone: 1 + backbone.num_register_tokens,
    "DINOV3Backbone": lambda backbone: 1 + backbone.num_register_tokens,
    "ViTBackbone": lambda backbone: int(backbone.use_class_token),
}
"""How many tokens stand before those of the patches; the first is the class token, if there is any."""
ANY_SIZE = ("DINOV2Backbone", "DINOV3Backbone")
"""What takes images of other sizes than it was trained on."""


def build_keras_hub_base(spec: ModelSpec, image_size: int) -> keras.Model:
    """An encoder of KerasHub from images to the features that the SPEC's `pool` names, its preprocessing included.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to features, float32 (n, d).

    Raises:
        SettingsError: If the folder has no encoder of a known kind, or it does not take such images.
        TissueError: If it is not the one that the SPEC's `sha256` names, cannot be downloaded, or KerasHub is missing.
        StorageError: If it cannot be read.
    """
    size = int(spec.options.get("size", image_size))
    with preset_folder(spec) as folder:
        preset = read_preset(Location(str(folder)))
        if preset.kind not in PRESET_KINDS:
            raise SettingsError(f"model {spec.text!r} is a {preset.kind}; expected one of {', '.join(PRESET_KINDS)}")
        try:
            backbone = _load(folder, PRESET_KINDS[preset.kind], size)
            _check_size(backbone, size)
        except TissueError:
            raise
        except Exception as error:  # KerasHub, h5py and safetensors raise their own kinds about files they cannot use
            raise SettingsError(f"model {spec.text!r}: {one_line(error)[:400]}") from error
    mean = preset.mean if preset.mean and MEAN not in spec.options else channel_values(spec.options, MEAN)
    std = preset.std if preset.std and STD not in spec.options else channel_values(spec.options, STD)
    images = image_input(image_size)
    features = _pooled(backbone, standardised(images, size, mean, std), spec)
    return keras.Model(
        images, keras.layers.Activation("linear", dtype="float32", name="features")(features), name="base"
    )


@contextmanager
def preset_folder(spec: ModelSpec) -> Iterator[Path]:
    """The folder of an encoder on this machine: downloaded by KerasHub if the SPEC names a preset.

    Raises:
        TissueError: If it cannot be had, or is not the one that the SPEC's `sha256` names.
        StorageError: If it cannot be read.
    """
    location = Location(str(_downloaded(spec))) if "preset" in spec.options else Location(spec.weights)
    if location.is_local:
        if spec.sha256 is not None:
            require_digest(spec, folder_digest(location))
        yield Path(location.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_folder(spec, Path(folder))
        yield Path(folder)


def _downloaded(spec: ModelSpec) -> Path:
    keras_hub = _keras_hub()
    presets = keras_hub.models.Backbone.presets
    if spec.weights not in presets:
        raise SettingsError(f"model {spec.text!r}: KerasHub {keras_hub.__version__} has no preset {spec.weights!r}")
    import kagglehub

    try:
        return Path(kagglehub.model_download(presets[spec.weights]["kaggle_handle"].removeprefix("kaggle://")))
    except Exception as error:  # kagglehub raises what its HTTP client does
        raise TissueError(
            f"the preset {spec.weights} is not on this machine and cannot be downloaded ({one_line(error)[:160]}); "
            f"get its folder elsewhere and give {KERAS_HUB}:path=URI"
        ) from error


def _keras_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise TissueError(f"{KERAS_HUB}: needs KerasHub, which cannot be imported here: {one_line(error)}") from error
    return keras_hub


def _load(folder: Path, kind: str, size: int) -> keras.Model:
    options = {"image_shape": (size, size, CHANNELS)} if kind in ANY_SIZE else {}
    loaded = _keras_hub().models.Backbone.from_preset(str(folder), dtype=keras.config.dtype_policy(), **options)
    return loaded.vision_encoder if kind == "SigLIPBackbone" else loaded


def _check_size(backbone: keras.Model, size: int) -> None:
    wanted = backbone.image_shape[0]
    if wanted != size:
        raise ValueError(f"it takes images of {wanted} px, not {size} px; give size={wanted} to have images resized")
    patch = backbone.patch_size if isinstance(backbone.patch_size, int) else backbone.patch_size[0]
    if size % patch:
        raise ValueError(f"its patches of {patch} px do not fill {size} px; give size={size // patch * patch or patch}")


def _pooled(backbone: keras.Model, pixels: keras.KerasTensor, spec: ModelSpec) -> keras.KerasTensor:
    """Features (n, d): the class token, the mean of the patches' tokens, or one after the other."""
    name = type(backbone).__name__
    outputs = backbone(dict.fromkeys(backbone.input, pixels) if isinstance(backbone.input, dict) else pixels)
    if name not in SPECIAL_TOKENS:
        if "pool" in spec.options:
            raise SettingsError(f"model {spec.text!r}: a {name} has features of its own; leave pool out")
        return outputs
    special = SPECIAL_TOKENS[name](backbone)
    pool = spec.options.get("pool", "cls" if special else "mean")
    if pool != "mean" and not special:
        raise SettingsError(f"model {spec.text!r} has no class token; give pool=mean")
    parts = {"cls": lambda: outputs[:, 0], "mean": lambda: keras.ops.mean(outputs[:, special:], axis=1)}
    return keras.ops.concatenate([parts[part]() for part in pool.split("_")], axis=-1)
