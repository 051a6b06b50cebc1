"""Settings of the jobs that use a trained model."""

from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lib.config.base import NOT_IDENTITY, Group, JobConfig, OutputUri, Settings, StorageUri, TrustConfig
from lib.config.images import Pattern, UnitConfig
from lib.config.resources import AcceleratorConfig


class ActorConfig(Settings):
    """The pool of actors that hold a model and predict."""

    GROUP = Group.PREDICTION

    predict_batch_size: Annotated[int, NOT_IDENTITY] = Field(default=64, ge=1)
    """Images in one forward pass of one actor."""
    num_actors: Annotated[int, NOT_IDENTITY] = Field(default=1, ge=1)
    """Maximum number of copies of the model that predict in parallel."""


class ForwardConfig(TrustConfig, ActorConfig):
    """How a model is applied to images that it was not trained on."""

    GROUP = Group.PREDICTION

    test_time_augmentation: Literal["none", "flips", "quarter_turns"] = "none"
    """Average the probabilities over an image and its mirror images (`flips`, 4 views), or also over quarter turns of
    them (`quarter_turns`, 8 views): as many times the work, for what has no up and down."""
    logits: bool = False
    """Also write the `logits` of each image, the mean over its views."""


class GroupConfig(Settings):
    """How a slide or a patient is answered as a whole."""

    GROUP = Group.PREDICTION

    group_answer: Literal["mean", "majority"] | None = None
    """What answers a whole group (--group-by), in `groups.parquet`: the `mean` of the logits of its images (unless
    told), or the `majority` of what they were predicted as."""


class PredictionConfig(AcceleratorConfig, ForwardConfig, JobConfig):
    """Predict images with a model."""

    GROUP = Group.FIRST

    model_dir: StorageUri
    """Model folder made by `train`."""
    output: Annotated[OutputUri, NOT_IDENTITY]
    """Folder to write."""


class MeasureConfig(GroupConfig):
    """What is measured and drawn of predictions whose truth is known."""

    GROUP = Group.MEASURES

    bootstrap_resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of the groups (or images) of the split, from which the 95 % intervals are computed."""
    ordered: tuple[str, ...] | None = None
    """All classes from the lowest to the highest, where they have an order, such as grades: then Cohen's kappa is also
    measured with the squared distance as weight."""
    costs: StorageUri | None = None
    """CSV table of what mistakes cost: a row for each true class, which its first cell names, a column for each
    predicted one. The mean cost is then measured."""
    maps: tuple[Literal["pca", "tsne", "umap"], ...] = ("pca", "tsne")
    """Maps of the embeddings to draw; of at most 5,000 images, drawn evenly from the classes. `umap` needs the extra
    `maps`, and ten seconds more; the Projector computes it as well."""
    checks: Annotated[OutputUri | None, NOT_IDENTITY] = None
    """Folder where the checks of the data set (near duplicates, colour baseline) are kept and found again; by default
    in the evaluation folder."""

    @field_validator("maps")
    @classmethod
    def _umap_is_there(cls, maps: tuple[str, ...]) -> tuple[str, ...]:
        if "umap" in maps and find_spec("umap") is None:
            raise ValueError("umap needs umap-learn (the extra `maps`), which is not installed: pip install umap-learn")
        return maps


class EvaluateConfig(MeasureConfig, PredictionConfig):
    """Predict one split of a dataset with a model, and measure how good the predictions are."""

    GROUP = Group.FIRST

    dataset: StorageUri
    """Dataset folder made by `convert`."""
    split: Literal["train", "validation", "test"] = "test"
    """Which split to predict."""


class PredictConfig(GroupConfig, UnitConfig, PredictionConfig):
    """Predict TIFFs that have no label."""

    GROUP = Group.FIRST

    source: StorageUri
    """Any folder tree of TIFFs."""
    group_by: Annotated[Pattern | None, Group.IMAGES] = None
    """What belongs together, such as a slide or a patient: a regular expression searched in each path, whose first
    parenthesis names the group; written beside each prediction."""
    site_by: Annotated[Pattern | None, Group.IMAGES] = None
    """Where each image was made, such as a hospital or a scanner, found in the same way."""
    min_confidence: Annotated[float, Group.PREDICTION] = Field(default=0.0, ge=0, lt=1)
    """Confidence below which the model abstains: the row says `abstained`, and the prediction should not be used."""


class ExportConfig(TrustConfig, JobConfig):
    """Write a model in a format that other programs run, preprocessing included."""

    GROUP = Group.FIRST

    model_dir: StorageUri
    """Model folder made by `train`."""
    output: Annotated[OutputUri, NOT_IDENTITY]
    """Folder to write the exported model into."""
    format: Literal["savedmodel", "onnx", "tflite"] = "savedmodel"
    """For TensorFlow Serving and TensorFlow; for ONNX Runtime; for LiteRT (TensorFlow Lite) on small devices."""
    quantize: Literal["none", "dynamic", "float16"] = "none"
    """Smaller weights, for `tflite` alone: `dynamic` 8-bit integers (a quarter), `float16` (half). Predictions change
    a little; by how much is measured and stated."""

    @model_validator(mode="after")
    def _quantized_tflite(self) -> Self:
        if self.quantize != "none" and self.format != "tflite":
            raise ValueError(f"--quantize {self.quantize} is for --format tflite")
        return self
