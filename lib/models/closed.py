"""Networks of other programs, whose inside Keras does not see: copies of their files, and a layer that has them.

The files are assets of the layer, so that a `model.keras` with it is complete in itself, but only programs that have
the layer's class can use it.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import keras


class ClosedNetwork:
    """A copy of the files of a network, in a folder that goes when this object does.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, fill: Callable[[Path], None]) -> None:
        """Take what `fill` puts into an empty folder."""
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        fill(self.folder)

    @classmethod
    def copy(cls, source: Path) -> Self:
        """A copy of a folder on this machine."""
        return cls(partial(shutil.copytree, source, dirs_exist_ok=True))

    def copy_to(self, target: Path) -> None:
        shutil.copytree(self.folder, target, dirs_exist_ok=True)


NetworkT = TypeVar("NetworkT", bound=ClosedNetwork)


class ClosedLayer(keras.layers.Layer, Generic[NetworkT]):  # type: ignore[misc]  # Keras has no types
    """Calls such a network and never trains it.

    Its weights are no Keras variables: they are in the assets, so `count_params` and `get_weights` leave them out.

    Attributes:
        network: Set by whoever builds or loads the layer.
        kind: Of the networks that it calls.
    """

    network: NetworkT | None = None
    kind: type[NetworkT]

    def __init__(self, output: str, width: int, **options: Any) -> None:
        """Say what comes out.

        Args:
            output: Name of the output to take.
            width: How many features an image has.
            **options: Those of any layer.
        """
        super().__init__(**options | {"dtype": "float32", "trainable": False})
        self.output_name, self.width = output, width

    @property
    def held(self) -> NetworkT:
        """The network, which must be there by now."""
        if self.network is None:
            raise RuntimeError("this layer has no network yet; it comes with the assets of a model.keras")
        return self.network

    def compute_output_spec(self, pixels: keras.KerasTensor) -> keras.KerasTensor:
        """Known without the network, since Keras rebuilds the graph before it loads assets."""
        return keras.KerasTensor((pixels.shape[0], self.width), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "output": self.output_name, "width": self.width}

    def save_assets(self, dir_path: str) -> None:
        """Called by `keras.Model.save` with a folder in the archive."""
        if self.network is not None:
            self.network.copy_to(Path(dir_path))

    def load_assets(self, dir_path: str) -> None:
        """Called by `keras.saving.load_model` with that folder, which is gone afterwards."""
        self.network = self.kind.copy(Path(dir_path))
