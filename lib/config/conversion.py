"""Settings of the jobs that make images."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lib.config.base import NOT_IDENTITY, Group, JobConfig, OutputUri, StorageUri
from lib.config.images import ImageConfig, ListingConfig
from lib.config.resources import DecodeConfig


class SampleConfig(JobConfig):
    """Make the embedded sample: 12 classes of tissue-like TIFFs."""

    GROUP = Group.FIRST

    output: Annotated[OutputUri, NOT_IDENTITY]
    """Folder to write `train/<label>/*.tif` and `test/<label>/*.tif` into."""
    train_per_class: int = Field(default=30, ge=2)
    """Training images of each class."""
    test_per_class: int = Field(default=10, ge=1)
    """Test images of each class."""
    seed: Annotated[int, Group.IMAGES] = Field(default=0, ge=0, lt=2**32)
    """Seed of the generator; the same seed gives the same bytes."""


class ConvertConfig(DecodeConfig, ImageConfig, ListingConfig, JobConfig):
    """Convert a folder of TIFFs to a dataset folder of Parquet shards."""

    GROUP = Group.FIRST

    source: StorageUri
    """Folder of TIFFs: `train/<label>/*.tif` and, if there is one, `test/<label>/*.tif`."""
    output: Annotated[OutputUri, NOT_IDENTITY]
    """Dataset folder to write."""
    layout: Annotated[Literal["shards", "folder"], Group.IMAGES] = "shards"
    """`folder` also writes `<split>/<label>/<name>.jpg`, readable by Keras's `image_dataset_from_directory`."""
    update: Annotated[bool, NOT_IDENTITY, Group.IMAGES] = False
    """Bring a complete dataset folder up to date with its source: convert only new and changed files, and drop those
    that are gone. Files that stay keep their split."""

    @model_validator(mode="after")
    def _update_of_shards(self) -> Self:
        if self.update and self.layout == "folder":
            raise ValueError("--update works only with shards; with --layout folder, convert into a new --output")
        return self
