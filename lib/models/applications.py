"""Networks of others as a base for a head of ours: Keras Applications, and earlier models of this project."""

import contextlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras

from lib.errors import TissueError, one_line
from lib.models.inputs import image_input
from lib.models.networks import KERAS_NETWORKS
from lib.models.saved import load_network
from lib.models.spec import ModelSpec
from lib.models.taps import find_taps, spatial_statistics
from lib.models.weights import given_weights
from lib.storage.location import Location

# MobileNet's weights are the same for every size; Keras warns all the same when the images are not of one it knows.
warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square", UserWarning)


def build_application_base(spec: ModelSpec, image_size: int) -> keras.Model:
    """A Keras Applications network without its classifier, with its own preprocessing inside.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to features, float32 (n, d): mean and standard deviation
        over the places of each tap (see `lib.models.taps`); with `taps=last` the means of the last layer alone.

    Raises:
        TissueError: If the weights cannot be had or do not fit.
    """
    module = getattr(keras.applications, KERAS_NETWORKS[spec.name].module)
    images = image_input(image_size)
    pixels = module.preprocess_input(keras.ops.cast(images, "float32"))
    network = _with_weights(spec, image_size)
    if not spec.has_middle_features:
        return keras.Model(images, _float32(network(pixels)), name="base")
    tapped = keras.Model(network.input, list(find_taps(network).values()), name=spec.name)
    statistics = [each for tap in tapped(pixels) for each in spatial_statistics(tap)]
    return keras.Model(images, keras.layers.Concatenate(name="features", dtype="float32")(statistics), name="base")


def base_taps(spec: ModelSpec, base: keras.Model) -> dict[str, int]:
    """How many features each tap of such a base gives, by the name of its layer; none where it has one output."""
    if not spec.has_middle_features:
        return {}
    tapped = base.get_layer(spec.name)
    widths = [2 * feature_map.shape[-1] for feature_map in tapped.outputs]
    return dict(zip(tapped.output_names, widths, strict=True))


def build_saved_base(folder: Location) -> keras.Model:
    """An earlier model of ours, up to the input of its last layer.

    Returns:
        A model from uint8 RGB images of the earlier model's size to features, float32 (n, d).
    """
    earlier = load_network(folder, trusts_saved_model=True)  # as `check_spec` has made sure of
    return keras.Model(earlier.input, earlier.layers[-1].input, name="base")


def _float32(features: keras.KerasTensor) -> keras.KerasTensor:
    """Features as they are kept, whatever precision they are computed in."""
    return keras.layers.Activation("linear", dtype="float32", name="features")(features)


def _with_weights(spec: ModelSpec, image_size: int) -> keras.Model:
    if spec.weights == "none":
        return _construct(spec, image_size, None)
    if spec.weights == "imagenet":
        return _with_imagenet(spec, image_size)[0]
    with given_weights(spec) as file:
        try:
            return _from_file(spec, image_size, file)
        except Exception as error:  # several types, as there are several ways to be a wrong file
            reason = one_line(error)
            raise TissueError(
                f"the weights {spec.weights} do not fit {spec.name} without its classifier "
                f"(a *_no_top or *_notop file is needed): {reason[:300]}"
            ) from error


def _from_file(spec: ModelSpec, image_size: int, file: Path) -> keras.Model:
    """A network with the weights of a file, which are taken for ImageNet's or made from them."""
    if KERAS_NETWORKS[spec.name].scales_imagenet:
        with _fetches_of_keras(instead=file):
            return _construct(spec, image_size, "imagenet")
    return _construct(spec, image_size, str(file))


def _construct(spec: ModelSpec, image_size: int, weights: str | None) -> keras.Model:
    network = KERAS_NETWORKS[spec.name]
    options = {"alpha": spec.alpha} if network.has_alpha else {}
    with contextlib.redirect_stdout(sys.stderr):  # where Keras shows how a download goes
        return getattr(keras.applications, network.function)(
            include_top=False,
            pooling=None if spec.has_middle_features else "avg",
            input_shape=(image_size, image_size, 3),
            weights=weights,
            **options,
        )


def require_weights(spec: ModelSpec, image_size: int) -> Path:
    """The file with a network's ImageNet weights, downloaded by Keras if need be.

    Raises:
        TissueError: If it cannot be had; the message names the file and where to put it.
    """
    return _imagenet_file(spec, image_size)


@lru_cache(maxsize=8)
def _imagenet_file(spec: ModelSpec, image_size: int) -> Path:
    return _with_imagenet(spec, image_size)[1]


def _with_imagenet(spec: ModelSpec, image_size: int) -> tuple[keras.Model, Path]:
    """A network with its ImageNet weights, and the file that they are from."""
    try:
        with _fetches_of_keras() as files:
            return _construct(spec, image_size, "imagenet"), files[-1]
    except Exception as error:  # Keras raises a bare Exception for a download
        raise TissueError(_missing_message(spec.name, error)) from error


@contextlib.contextmanager
def _fetches_of_keras(instead: Path | None = None) -> Iterator[list[Path]]:
    """The files that Keras fetches meanwhile, or what it gets `instead`.

    Which file a network needs is known to its constructor alone.
    """
    files: list[Path] = []
    module: Any = inspect.getmodule(keras.utils.get_file)
    get_file = module.get_file

    def fetch(*args: Any, **kwargs: Any) -> str:
        files.append(instead or Path(get_file(*args, **kwargs)))
        return str(files[-1])

    module.get_file = fetch
    try:
        yield files
    finally:
        module.get_file = get_file


def _missing_message(name: str, error: Exception) -> str:
    reason = one_line(error)
    if missing := re.search(r"URL fetch failure on \S*/([^/\s]+?):? ", reason):
        return (
            f"the ImageNet weights of {name} are not on this machine and cannot be downloaded; "
            f"put {missing.group(1)} into the folder models/ of KERAS_HOME (~/.keras unless set), "
            f"or give {name}:weights=URI, or train from scratch with {name}:weights=none"
        )
    return f"the ImageNet weights of {name} cannot be used: {reason[:300]}"
