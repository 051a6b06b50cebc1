"""Every setting of every job, typed and closed. The text under a field is its `--help`.

Settings come from default < `--config recipe.yaml` < flag (see `lib.runs.command_line`).
"""

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

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
URI_FORMS = "a local path, file://, gs://bucket/prefix or gdrive://<folder id>/path"


def absolute_uri(uri: str) -> str:
    """A local path as an absolute one, since workers have their own working folder; other URIs as they are."""
    if not uri.strip():
        raise ValueError(f"empty; expected {URI_FORMS}")
    if uri.startswith(LOCAL_SCHEME):
        uri = uri.removeprefix(LOCAL_SCHEME)
    scheme, separator, rest = uri.rpartition("://")
    if not rest.strip("/ ") and (separator or not uri):
        raise ValueError(f"nothing follows the scheme; expected {URI_FORMS}")
    if separator and scheme not in REMOTE_SCHEMES:
        raise ValueError(f"cannot open {scheme}://; expected {URI_FORMS}")
    if separator:
        return uri.rstrip("/")
    return os.path.normpath(Path(uri).expanduser().absolute())


StorageUri = Annotated[str, AfterValidator(absolute_uri)]
"""A local path, `file://...`, `gs://bucket/prefix` or `gdrive://<folder id>/path`."""


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
    log_format: Literal["text", "json"] = "text"
    """How lines on stderr are written: for people, or one JSON object a line, as Google Cloud Logging reads them."""


class TiffPolicy(Settings):
    """How a TIFF becomes 8-bit RGB. One policy a data set; a model keeps the one it was trained with."""

    max_pixels: int = Field(default=500_000_000, ge=1)
    """Refuse an image that declares more pixels than this, before anything is allocated; for `--tiff-page
    max-projection` all its pages together."""
    tiff_range: str = "auto"
    """Sample values that become black and white, for samples of more than 8 bits, signed ones and floats. `auto`:
    unsigned integers from 0 to the top of the fewest bits (8, 10, 12, 14, 16, 24, 32) that the files state or their
    samples need; floats [0, 1] if they lie within; else as `percentile`: the `--tiff-percentiles` of the training
    images, measured once. Or `LOW:HIGH` (`0:4095`, `--tiff-range=-1:1`), also by type (`uint16=0:4095,float32=0:1`)."""
    tiff_percentiles: tuple[float, float] = (0.1, 99.9)
    """Percentiles of the pooled samples that become black and white where the range is measured."""
    tiff_page: str = "first"
    """Which page of a file: `first`, its number counted from 0, or `max-projection`, the brightest over all pages."""
    tiff_channels: str = "auto"
    """Which samples of a pixel: `auto` by their stated meaning, refusing more than 4; or one number for gray or three
    for red, green and blue, counted from 0 (`2` or `0,3,1`), taken as plain intensities."""
    tiff_alpha: Literal["white", "ignore", "refuse"] = "white"
    """Transparency: laid over `white`, dropped (as is an extra sample of unknown meaning), or a reason to refuse."""
    tiff_orientation: Literal["apply", "ignore"] = "apply"
    """Whether to turn images upright as their orientation tag says, or leave them as stored."""
    tiff_constant: Literal["keep", "refuse"] = "keep"
    """What to do with an image whose pixels all have one colour."""

    @field_validator("tiff_range", "tiff_page", "tiff_channels", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if not isinstance(value, str):  # YAML makes numbers of `3` and even of `1:50`
            raise ValueError("expected text; put it in quotes in a recipe")  # noqa: TRY004 - pydantic wants this type
        return value

    @field_validator("tiff_range")
    @classmethod
    def _known_range(cls, text: str) -> str:
        if text not in {"auto", "percentile"}:
            parse_ranges(text)
        return text

    @field_validator("tiff_percentiles")
    @classmethod
    def _percentiles_in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:  # noqa: PLR2004 - per cent
            raise ValueError("expected two numbers from 0 to 100, the lower one first")
        return value

    @field_validator("tiff_page")
    @classmethod
    def _known_page(cls, text: str) -> str:
        if text not in {"first", "max-projection"} and not re.fullmatch(r"[0-9]{1,9}", text):
            raise ValueError("expected first, max-projection, or a number counted from 0")
        return text

    @field_validator("tiff_channels")
    @classmethod
    def _known_channels(cls, text: str) -> str:
        if text != "auto" and not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4},[0-9]{1,4})?", text):
            raise ValueError("expected auto, one number, or three with commas, such as 0,1,2")
        return text


def parse_ranges(text: str) -> dict[str, tuple[float, float]]:
    """The ranges of an explicit `tiff_range`: low and high by sample type (`uint16`), or by `""` for all types.

    Raises:
        ValueError: If it is not `LOW:HIGH`, or `TYPE=LOW:HIGH` with commas between them.
    """
    ranges = {}
    for part in text.split(","):
        match = re.fullmatch(r"(?:((?:uint|int|float)\d+)=)?([^:=]+):([^:=]+)", part.strip())
        try:
            kind, low, high = match[1] or "", float(match[2]), float(match[3])  # type: ignore[index]
        except (TypeError, ValueError):
            kind, low, high = "", 0.0, 0.0
        if kind in ranges or not -math.inf < low < high < math.inf:
            raise ValueError("expected auto, percentile, or LOW:HIGH with the lower sample value first, such as 0:4095")
        ranges[kind] = (low, high)
    return ranges


class DecodeConfig(Settings):
    """What Ray reserves for tasks that decode images. It decides which machines an autoscaling cluster starts."""

    cpus_per_convert_task: float = Field(default=1.0, gt=0)
    """CPUs for each task that decodes images: less than 1 where they mostly wait for the storage."""
    convert_memory_gib: float | None = Field(default=None, gt=0)
    """Memory in GiB for each task that decodes images, for large ones; by default it is not looked at."""
    keep_gpus_free: bool = False
    """Convert only on machines without a GPU, which the cluster must have. Otherwise a cluster starts machines with a
    GPU for converting too, once all others are busy."""


class AcceleratorConfig(DecodeConfig):
    """What Ray reserves for what holds a network: training workers, and actors that predict or compute features."""

    use_gpu: bool = False
    """Give each training worker and each copy of a model that predicts a GPU."""
    gpus_per_worker: float = Field(default=1.0, gt=0, le=1)
    """With --use-gpu, the share of a GPU that each of them gets; a network uses one GPU at most."""
    accelerator_type: str | None = None
    """With --use-gpu, the kind of GPU they need, as Ray's label `ray.io/accelerator-type` names it (`L4`, `A100`); by
    default any."""

    @model_validator(mode="after")
    def _type_of_gpu(self) -> Self:
        if self.accelerator_type is not None and not self.use_gpu:
            raise ValueError("--accelerator-type needs --use-gpu")
        return self


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
    labels: StorageUri | None = None
    """CSV table with the columns path (relative to the source), label and, if wanted, split (train, validation or
    test; train unless stated) and group; for a source that is not laid out as `train/<label>/*.tif`."""
    group_by: str | None = None
    """What must not be torn apart by splits, as a slide or a patient: a column of --labels, or a regular expression
    searched in each path, whose first parenthesis names the group."""
    duplicates: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with images of the same bytes: refuse them in two classes or in train and test; drop all but one; or
    keep them all. They are counted in any case."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random: the validation split, weights, the order of images."""

    @field_validator("group_by")
    @classmethod
    def _group_by_compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


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


class ConvertConfig(DecodeConfig, ImageConfig, ListingConfig, JobConfig):
    """Convert a folder of TIFFs to a dataset folder of Parquet shards."""

    source: StorageUri
    """Folder of TIFFs: `train/<label>/*.tif` and, if there is one, `test/<label>/*.tif`."""
    output: StorageUri
    """Dataset folder to write."""
    layout: Literal["shards", "folder"] = "shards"
    """`folder` also writes `<split>/<label>/<name>.jpg`, readable by Keras's `image_dataset_from_directory`."""
    update: bool = False
    """Bring a complete dataset folder up to date with its source: convert only new and changed files, drop those that
    are gone. Files that stay keep their split."""

    @model_validator(mode="after")
    def _update_of_shards(self) -> Self:
        if self.update and self.layout == "folder":
            raise ValueError("--update works on shards alone; with --layout folder, convert into a new --output")
        return self


class FitConfig(AcceleratorConfig):
    """How a model is fitted."""

    epochs: int = Field(default=10, ge=1)
    """Most epochs to train, of the head alone where a new head is trained; early stopping may end sooner."""
    batch_size: int = Field(default=32, ge=1)
    """Images in one optimizer step, over all workers together."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size of Adam; by default 0.001, or 0.01 where only a new head is trained on a frozen base. It belongs to
    the global batch, so it stays the same whatever the number of workers."""
    gradient_parts: int = Field(default=4, ge=1)
    """Parts of a global batch whose gradients are computed apart and added in a fixed order: any number of workers that
    divides it gives the same weights. Batch normalisation that is trained sees one part at a time."""
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch is kept either way."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the layers while training. Weights and the saved model are float32 in any case."""
    cache: Literal["auto", "memory", "none"] = "auto"
    """Where decoded images stay between epochs: in the `memory` of the workers, refusing what does not fit; or nowhere,
    so that every epoch streams them again; `auto` keeps them if they fit. The weights are the same either way."""
    cache_gib: float | None = Field(default=None, gt=0)
    """Memory for decoded images in each worker, in GiB; by default its share of 80 % of what is free when it starts."""
    augment: tuple[Literal["flip", "rotate", "shift", "brightness", "stain"], ...] = ()
    """Random changes of training images: `flip` both ways, `rotate` by quarter turns, `shift` by up to 1/16 of the
    side, `brightness` by up to 10 %, and `stain`, the strength of the haematoxylin and eosin colours, by up to 15 %."""
    augmented_features: int = Field(default=4, ge=1)
    """With --augment and a frozen base: differently changed copies of each training image whose features are computed;
    epochs take turns with them."""
    class_weight: Literal["none", "balanced"] = "none"
    """`balanced` weighs each image in the loss by the inverse of how common its class is, 1 on average."""
    sampling: Literal["once", "balanced"] = "once"
    """`once` takes every training image once an epoch; `balanced` draws as many, each class as often as any other."""
    head_units: int = Field(default=0, ge=0)
    """Units of a hidden layer in a new head on a frozen base; 0 for a linear head."""
    fine_tune_epochs: int = Field(default=0, ge=0)
    """Most epochs to go on training the top of the base together with its new head, after the head."""
    fine_tune_layers: int = Field(default=20, ge=1)
    """Layers with weights to fine-tune, counted from the end of the base; batch normalisation stays as it is, and does
    not count."""
    fine_tune_rate: float = Field(default=1e-4, gt=0)
    """Step size of Adam for the head while fine-tuning; layers of the base take a tenth of it. It rises from 0 over the
    first tenth of the steps. What fine-tuning does not better is not kept."""
    features: StorageUri | None = None
    """Folder where features of frozen bases are kept and found again; by default in the model folder."""
    num_workers: int | str = 1
    """Training workers, and with GPUs or on a cluster as many actors that compute features; one worker runs in the
    job's own process, more are Ray Train workers. `1:4` starts with as many of 1
    to 4 as the cluster can place, and follows it as it grows and shrinks."""
    max_failures: int = Field(default=3, ge=0)
    """How often training may start again from its last checkpoint after a worker was lost; errors of the data or the
    program end it at once."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints within an epoch; there is one after every epoch in any case."""
    stall_timeout: float = Field(default=600.0, gt=0)
    """Seconds without a step after which the worker that holds up the others is named, ended and replaced."""

    @field_validator("num_workers")
    @classmethod
    def _workers(cls, value: int | str) -> int | str:
        match = re.fullmatch(r"([1-9]\d{0,3})(?::([1-9]\d{0,3}))?", str(value))
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError("expected a number from 1, or a range such as 1:4")
        return f"{match[1]}:{match[2]}" if match[2] else int(match[1])

    @property
    def fewest_workers(self) -> int:
        """How many workers training needs at least."""
        return int(str(self.num_workers).partition(":")[0])

    @property
    def most_workers(self) -> int:
        """How many workers training uses at most."""
        return int(str(self.num_workers).rpartition(":")[2])


class TrainConfig(FitConfig, ImageConfig, ListingConfig, JobConfig):
    """Fit one model on a dataset folder, or on TIFFs streamed from storage."""

    output: StorageUri
    """Model folder to write."""
    dataset: StorageUri | None = None
    """Dataset folder made by `convert`."""
    source: StorageUri | None = None
    """Folder of TIFFs to stream straight into training instead; no dataset folder is kept."""
    model: str = "cnn"
    """SPEC: `cnn`; a Keras Applications network (`vgg16`, `mobilenet:alpha=0.25,weights=URI,sha256=HEX`); a SavedModel
    of TF Hub (`hub:path=URI,output=KEY`); or an earlier model of ours (`saved:path=URI`)."""

    sweep: StorageUri | None = None
    """YAML file that says which settings to search (see `SweepConfig` in `lib/config.py`): many trials are trained,
    those that fall behind are ended early, and --output gets the model of the best by its validation images."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.dataset is None) == (self.source is None):
            raise ValueError("give either --dataset or --source")
        return self


class ParameterSpace(Settings):
    """What a sweep tries for one setting: some values, or a range of numbers."""

    values: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """Values to choose from."""
    low: float | None = None
    """Least number of a range."""
    high: float | None = None
    """Greatest number of a range."""
    log: bool = False
    """Whether each doubling within the range is as likely as any other; as it should be for step sizes."""

    @model_validator(mode="after")
    def _values_or_range(self) -> Self:
        if (self.values is None) != (self.low is not None and self.high is not None) or (
            self.values is not None and (self.low, self.high, self.log) != (None, None, False)
        ):
            raise ValueError("give either values, or low and high")
        if self.values is not None and any(value in self.values[:place] for place, value in enumerate(self.values)):
            raise ValueError("a value is given twice")
        if self.low is not None and self.high is not None and not -math.inf < self.low < self.high < math.inf:
            raise ValueError("low must be less than high")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError("with log, low must be positive")
        return self


class SweepConfig(Settings):
    """Which settings to search, and when a trial is given up."""

    trials: int = Field(ge=1, le=10_000)
    """How many combinations of settings to try; --seed draws them."""
    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    """By which number of the best epoch of each trial, on the validation images, trials are compared."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs that every trial is given."""
    reduction_factor: float = Field(default=3.0, gt=1)
    """After the grace epochs, and each time their number has grown by this factor, a trial goes on only if it is among
    the best of this fraction of the trials that came so far."""
    parameters: dict[str, ParameterSpace] = Field(min_length=1)
    """What to try for which settings of the fit, or for `model`: `{values: [...]}` or `{low:, high:, log:}`."""


class ActorConfig(Settings):
    """The pool of actors that hold a model and predict."""

    predict_batch_size: int = Field(default=64, ge=1)
    """Images in one forward pass of one actor."""
    num_actors: int = Field(default=1, ge=1)
    """Most copies of the model that predict side by side."""


class ForwardConfig(ActorConfig):
    """How a model is applied to images that it was not trained on."""

    test_time_augmentation: Literal["none", "flips", "quarter_turns"] = "none"
    """Average the probabilities over an image and its mirror images (`flips`, 4 views), or also over quarter turns of
    them (`quarter_turns`, 8 views): as many times the work, for what has no up and down."""
    logits: bool = False
    """Also write the `logits` of each image, the mean over its views."""


class PredictionConfig(AcceleratorConfig, ForwardConfig, JobConfig):
    """Predict images with a model."""

    model_dir: StorageUri
    """Model folder made by `train`."""
    output: StorageUri
    """Folder to write."""


class MeasureConfig(Settings):
    """What is measured and drawn of predictions whose truth is known."""

    bootstrap_resamples: int = Field(default=2000, ge=100)
    """Samples, drawn again from the groups (or images) of the split, that the 95 % intervals come from."""
    maps: tuple[Literal["pca", "tsne", "umap"], ...] = ("pca", "tsne", "umap")
    """Maps of the embeddings to draw; of at most 5,000 images, drawn evenly from the classes."""
    checks: StorageUri | None = None
    """Folder where the checks of the data set (near duplicates, colour baseline) are kept and found again; by default
    in the evaluation folder."""


class EvaluateConfig(MeasureConfig, PredictionConfig):
    """Predict one split of a dataset with a model, and measure how good the predictions are."""

    dataset: StorageUri
    """Dataset folder made by `convert`."""
    split: Literal["train", "validation", "test"] = "test"
    """Which split to predict."""


class PredictConfig(UnitConfig, PredictionConfig):
    """Predict TIFFs that have no label."""

    source: StorageUri
    """Any folder tree of TIFFs."""
    min_confidence: float = Field(default=0.0, ge=0, lt=1)
    """Confidence below which the model abstains: the row says `abstained`, and the prediction should not be used."""


class ReportConfig(JobConfig):
    """Write one offline HTML page about one or more evaluations."""

    evaluations: tuple[StorageUri, ...] = Field(min_length=1)
    """Evaluation folders, shown side by side in this order."""
    output: StorageUri
    """Report folder to write."""


class ExportConfig(JobConfig):
    """Write a model in a format that other programs run, preprocessing included."""

    model_dir: StorageUri
    """Model folder made by `train`."""
    output: StorageUri
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


class StatusConfig(JobConfig):
    """Tell from storage alone what below a folder is done, running, stopped or failed."""

    output: StorageUri
    """The --output of a job, or any folder above."""


class PipelineConfig(FitConfig, ForwardConfig, MeasureConfig, ImageConfig, ListingConfig, JobConfig):
    """Convert, train every model, evaluate each on the test split, and report."""

    source: StorageUri
    """Folder of TIFFs: `train/<label>/*.tif` and `test/<label>/*.tif`."""
    output: StorageUri
    """Folder for `dataset/`, `models/<name>/`, `evaluations/<name>/` and `report/`."""
    models: tuple[str, ...] = Field(default=("cnn",), min_length=1)
    """SPECs of the models to train, in this order (see `python -m jobs.train --help`)."""
    layout: Literal["shards", "folder"] = "shards"
    """`folder` also writes `dataset/<split>/<label>/<name>.jpg`."""


class DoctorConfig(PipelineConfig):
    """Look whether a pipeline with these settings can work, and what it will take, before anything is paid for."""

    cpus: int | None = Field(default=None, ge=1)
    """CPUs that convert side by side, for the estimate; by default those that Ray has now."""
    gpu_speedup: float = Field(default=30.0, gt=0)
    """How many times faster one GPU trains than this machine's CPUs, for the estimate with --use-gpu."""
    price_per_cpu_hour: float = Field(default=0.05, ge=0)
    """Price of one CPU for an hour, in the currency of your bill; the default is about that of Google's N2 machines on
    demand, in dollars. Spot machines cost a third or less."""
    price_per_gpu_hour: float = Field(default=0.85, ge=0)
    """Price of a machine with one GPU for an hour; the default is about that of Google's g2-standard-8 (L4)."""
