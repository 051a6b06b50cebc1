"""Every setting of every job, typed and closed. The text under a field is its `--help`.

Settings come from default < `--config recipe.yaml` < flag (see `lib.command_line`).
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

LOCAL_SCHEME = "file://"
REMOTE_SCHEMES = ("gs", "gdrive")


def absolute_uri(uri: str) -> str:
    """A local path as an absolute one, since workers have their own working folder; other URIs as they are."""
    if not uri.strip():
        raise ValueError("empty; expected a local path, file://, or gs://bucket/prefix")
    if uri.startswith(LOCAL_SCHEME):
        uri = uri.removeprefix(LOCAL_SCHEME)
    scheme, separator, rest = uri.rpartition("://")
    if not rest.strip("/ ") and (separator or not uri):
        raise ValueError("nothing follows the scheme; expected a local path, file:// or gs://bucket/prefix")
    if separator and scheme not in REMOTE_SCHEMES:
        raise ValueError(f"cannot open {scheme}://; expected a local path, file:// or gs://bucket/prefix")
    if separator:
        return uri.rstrip("/")
    return os.path.normpath(Path(uri).expanduser().absolute())


StorageUri = Annotated[str, AfterValidator(absolute_uri)]
"""A local path, `file://...`, or `gs://bucket/prefix`."""


SettingsT = TypeVar("SettingsT", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        numbers = {int, float, int | None, float | None}
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in numbers:
            raise ValueError("expected a number")
        return value

    def part(self, config_type: type[SettingsT], **changes: object) -> SettingsT:
        """Other settings, taken from the fields that both have, then from `changes`."""
        shared = {name: getattr(self, name) for name in config_type.model_fields if hasattr(self, name)}
        return config_type.model_validate(shared | changes)


class JobConfig(Settings):
    """What every job understands."""

    verbose: bool = False
    """Show the messages of Ray and TensorFlow too."""


class TiffPolicy(Settings):
    """How a TIFF becomes 8-bit RGB. One policy a data set; a model keeps the one it was trained with."""

    max_pixels: int = Field(default=500_000_000, ge=1)
    """Refuse an image that declares more pixels than this, before anything is allocated."""


class ImageConfig(TiffPolicy):
    """From any TIFF to a small encoded image."""

    image_size: int = Field(default=180, ge=16, le=4096)
    """Side of the square images that models see, in pixels."""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality of the converted images, 1 to 100."""


class UnitConfig(Settings):
    """How listed images are cut into units of work, and how many may be bad."""

    max_bad_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that may be quarantined before the run is refused (exit code 3)."""
    images_per_shard: int | None = Field(default=None, ge=1)
    """Images in one unit of work and one shard; by default a sixteenth of the images, between 16 and 512."""


class ListingConfig(UnitConfig):
    """Which split each listed image belongs to."""

    validation_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the training images of each class kept for validation (at least one a class, unless 0)."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random: the validation split, weights, the order of images."""


class SampleConfig(JobConfig):
    """Make the embedded sample: 12 classes of tissue-like TIFFs."""

    output: StorageUri
    """Folder to write `train/<label>/*.tif` and `test/<label>/*.tif` into."""
    train_per_class: int = Field(default=30, ge=2)
    """Training images of each class."""
    test_per_class: int = Field(default=10, ge=1)
    """Test images of each class."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the generator; the same seed gives the same bytes."""


class ConvertConfig(ImageConfig, ListingConfig, JobConfig):
    """Convert a folder of TIFFs to a dataset folder of Parquet shards."""

    source: StorageUri
    """Folder of TIFFs: `train/<label>/*.tif` and, if there is one, `test/<label>/*.tif`."""
    output: StorageUri
    """Dataset folder to write."""
    layout: Literal["shards", "folder"] = "shards"
    """`folder` also writes `<split>/<label>/<name>.jpg`, readable by Keras's `image_dataset_from_directory`."""


class FitConfig(Settings):
    """How a model is fitted."""

    epochs: int = Field(default=10, ge=1)
    """Most epochs to train; early stopping may end sooner."""
    batch_size: int = Field(default=32, ge=1)
    """Images in one optimizer step, over all workers together."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size of Adam; by default 0.001, or 0.01 where only a new head is trained on a frozen base."""
    gradient_parts: int = Field(default=4, ge=1)
    """Parts of a global batch whose gradients are computed apart and added in a fixed order: any number of workers that
    divides it gives the same weights. Batch normalisation that is trained sees one part at a time."""
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch is kept either way."""
    num_workers: int = Field(default=1, ge=1)
    """Training workers; one runs in the job's own process, more are Ray Train workers."""
    use_gpu: bool = False
    """Give each training worker and each prediction actor a GPU."""


class TrainConfig(FitConfig, ImageConfig, ListingConfig, JobConfig):
    """Fit one model on a dataset folder, or on TIFFs streamed from storage."""

    output: StorageUri
    """Model folder to write."""
    dataset: StorageUri | None = None
    """Dataset folder made by `convert`."""
    source: StorageUri | None = None
    """Folder of TIFFs to stream straight into training instead; no dataset folder is kept."""
    model: str = "cnn"
    """SPEC: `cnn`, a Keras Applications network (`vgg16`, `mobilenet:alpha=0.25,weights=URI`), or `saved:path=URI`."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.dataset is None) == (self.source is None):
            raise ValueError("give either --dataset or --source")
        return self


class ActorConfig(Settings):
    """The pool of actors that hold a model and predict."""

    predict_batch_size: int = Field(default=64, ge=1)
    """Images in one forward pass of one actor."""
    num_actors: int = Field(default=1, ge=1)
    """Most copies of the model that predict side by side."""


class PredictionConfig(ActorConfig, JobConfig):
    """Predict images with a model."""

    model_dir: StorageUri
    """Model folder made by `train`."""
    output: StorageUri
    """Folder to write."""
    use_gpu: bool = False
    """Give each copy of the model a GPU."""


class EvaluateConfig(PredictionConfig):
    """Predict one split of a dataset with a model, and measure how good the predictions are."""

    dataset: StorageUri
    """Dataset folder made by `convert`."""
    split: Literal["train", "validation", "test"] = "test"
    """Which split to predict."""


class PredictConfig(UnitConfig, PredictionConfig):
    """Predict TIFFs that have no label."""

    source: StorageUri
    """Any folder tree of TIFFs."""


class ReportConfig(JobConfig):
    """Write one offline HTML page about one or more evaluations."""

    evaluations: tuple[StorageUri, ...] = Field(min_length=1)
    """Evaluation folders, shown side by side in this order."""
    output: StorageUri
    """Report folder to write."""


class PipelineConfig(FitConfig, ActorConfig, ImageConfig, ListingConfig, JobConfig):
    """Convert, train every model, evaluate each on the test split, and report."""

    source: StorageUri
    """Folder of TIFFs: `train/<label>/*.tif` and `test/<label>/*.tif`."""
    output: StorageUri
    """Folder for `dataset/`, `models/<name>/`, `evaluations/<name>/` and `report/`."""
    models: tuple[str, ...] = Field(default=("cnn",), min_length=1)
    """SPECs of the models to train, in this order (see `python -m jobs.train --help`)."""
    layout: Literal["shards", "folder"] = "shards"
    """`folder` also writes `dataset/<split>/<label>/<name>.jpg`."""
