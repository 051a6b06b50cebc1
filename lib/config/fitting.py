"""How models are fitted, and which settings a sweep searches."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from lib.config.base import NOT_IDENTITY, Group, JobConfig, OutputUri, Settings, StorageUri, TrustConfig
from lib.config.images import ImageConfig, ListingConfig
from lib.config.resources import AcceleratorConfig, WorkerCount, WorkerCountSetting

USUAL_PATIENCE, PARTS_ON_CPUS = 5, 4
FEWEST_TO_CHOOSE = 20
"""Validation images that tell one epoch from another well enough."""


class FitConfig(TrustConfig, AcceleratorConfig):
    """How a model is fitted."""

    GROUP = Group.FIT

    epochs: Annotated[int, Group.FIRST] = Field(default=30, ge=1)
    """Maximum number of epochs, of a head only with --head adam. Early stopping may end sooner."""
    batch_size: int = Field(default=32, ge=1)
    """Images in one optimizer step, over all workers together."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size of Adam; by default 0.001, for `cnn_bn` 0.003, or 0.01 where only a new head is trained on a frozen
    base. It belongs to the global batch, so it stays the same whatever the number of workers."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """`adamw` also shrinks kernels a little in every step; see --weight-decay."""
    weight_decay: float = Field(default=0.05, ge=0)
    """With --optimizer adamw: the share of a kernel that a step takes away, times the step size. Biases and
    normalisation are left alone."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """The step size after the warm-up: `constant`, or falling to 0 along half a `cosine` until the last epoch."""
    warmup_epochs: float | None = Field(default=None, ge=0)
    """Epochs in which the step size rises from 0; by default a tenth of --epochs."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each training label that is spread over all classes, so that the network is less sure of itself."""
    mixup: float = Field(default=0.0, ge=0)
    """Mixes each training image with another, and their labels alike: in shares from a Beta(a, a) distribution, for a
    positive number a such as 0.2; 0 for no mixing."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Validates and keeps a running average of the weights instead of the last ones: each step keeps this share of the
    average, so that 0.98 looks back about 50 steps."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Greatest norm of the gradient of all weights together; a longer one is shortened to it."""
    gradient_parts: int | None = Field(default=None, ge=1)
    """Parts of a global batch whose gradients are computed apart and added as a tree: 1, 2, 4 ... workers that divide a
    power of 2 give the same weights to the last bit, on CPUs of as many cores each; other numbers differ by rounding,
    which grows from step to step. Batch normalisation that is trained sees one part at a time. By default 4, or 1 with
    --use-gpu, where small parts would leave a GPU idle."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better validation loss before training stops (see --keep-epoch). By default 5, or a
    third of the epochs if that is more and the --schedule is `cosine`, which is best at its end."""
    keep_epoch: Literal["auto", "best", "last"] = "auto"
    """Which epoch becomes the model: the `best` by its validation loss, or the `last`, which --patience never ends;
    `auto` takes the last where there are fewer than 20 validation images, whose luck would choose."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Arithmetic of the layers while training, and while features are computed. `auto` is `mixed_bfloat16` with
    --use-gpu on a GPU of compute capability 8.0 or more (from the A100 on), else `float32`; it is decided when a run
    begins, and stays if that goes on elsewhere. Weights and the saved model are float32 in any case."""
    cache: Annotated[Literal["auto", "memory", "none"], NOT_IDENTITY, Group.RUNNING] = "auto"
    """Where decoded images stay between epochs: in the `memory` of the workers, refusing what does not fit; or nowhere,
    so that every epoch streams them again; `auto` keeps them if they fit. Features of frozen bases that are not kept in
    memory are in a temporary file on the worker's disk. The weights are the same either way."""
    cache_gib: Annotated[float | None, NOT_IDENTITY, Group.RUNNING] = Field(default=None, gt=0)
    """Memory for decoded images in each worker, in GiB; by default its share of 80 % of what is free when it starts, in
    a container of what this may take, and without what Ray's object store has yet to take."""
    augment: tuple[Literal["auto", "none", "flip", "rotate", "shift", "brightness", "stain"], ...] = ("auto",)
    """Random changes of training images: `flip` both ways, `rotate` by quarter turns, `shift` by up to 1/16 of the
    side, `brightness` by up to 10 %, and `stain`, the strength of the haematoxylin and eosin colours, by up to 15 %;
    or `none`. `auto` flips and rotates for a network that is trained from scratch, and changes nothing on a frozen
    base, where each changed copy costs features."""
    augmented_features: Annotated[int, Group.HEAD] = Field(default=4, ge=1)
    """With --augment and a frozen base: differently changed copies of each training image whose features are computed.
    A solved head takes all of them; epochs of --head adam take turns with them."""
    class_weight: Literal["none", "balanced"] = "none"
    """`balanced` weighs each image in the loss by the inverse of how common its class is, 1 on average."""
    sampling: Literal["once", "balanced"] = "once"
    """`once` takes every training image once an epoch; `balanced` draws as many, each class as often as any other."""
    head: Annotated[Literal["solved", "adam"], Group.HEAD] = "solved"
    """How a new head on a frozen base is fitted. `solved`: logistic regression with an L2 penalty that is chosen by
    cross-validation on the training images; it has no step size and no epochs, and is the same for any number of
    workers. `adam`: trained step by step, with hidden units if wanted."""
    head_memory_gib: Annotated[float, Group.HEAD] = Field(default=0.25, gt=0)
    """Features, in GiB, on which one worker chooses the penalty of a solved head. Where there are more, it takes as
    many of each class as fit, and then all workers together solve the head on all."""
    head_units: Annotated[int, Group.HEAD] = Field(default=0, ge=0)
    """Units of a hidden layer in a new head on a frozen base (with --head adam); 0 for a linear head."""
    fine_tune_epochs: Annotated[int, Group.HEAD] = Field(default=0, ge=0)
    """Maximum number of epochs that train the top of the base together with its new head, after the head alone."""
    fine_tune_layers: Annotated[int, Group.HEAD] = Field(default=20, ge=1)
    """Layers with weights to fine-tune, counted from the end of the base; batch normalisation stays as it is, and does
    not count."""
    fine_tune_rate: Annotated[float, Group.HEAD] = Field(default=1e-4, gt=0)
    """Step size of Adam for the head while fine-tuning; layers of the base take a tenth of it. It rises from 0 over the
    first tenth of the steps. The result is kept only if it is better."""
    fine_tune_decay: Annotated[float, Group.HEAD] = Field(default=1.0, gt=0, le=1)
    """Step size of each layer of the base that is fine-tuned, as a share of that of the layer after it."""
    features: Annotated[OutputUri | None, NOT_IDENTITY, Group.HEAD] = None
    """Folder where features of frozen bases are kept and found again; by default in the model folder."""
    num_workers: Annotated[WorkerCountSetting, NOT_IDENTITY, Group.FIRST] = WorkerCount(1, 1)
    """Training workers, and with GPUs or on a cluster as many actors that compute features; one worker runs in the
    job's own process, more are Ray Train workers. `1:4` starts with as many of 1
    to 4 as the cluster can place, and follows it as it shrinks, and as it grows: by a quarter, or by less after five
    minutes in which no other machine came."""
    max_failures: Annotated[int, NOT_IDENTITY, Group.RUNNING] = Field(default=3, ge=0)
    """How often training may restart from its last checkpoint after a worker was lost; errors of the data or the
    program end it at once."""
    checkpoint_minutes: Annotated[float, NOT_IDENTITY, Group.RUNNING] = Field(default=5.0, gt=0)
    """Minutes after which a long epoch saves a checkpoint; there is one after every epoch in any case."""
    checkpoint_every: Annotated[int | None, NOT_IDENTITY, Group.RUNNING] = Field(default=None, ge=1)
    """Steps after which it does too."""
    stall_timeout: Annotated[float, NOT_IDENTITY, Group.RUNNING] = Field(default=600.0, gt=0)
    """Seconds without a step after which the worker that holds up the others is named, ended and replaced."""

    @field_validator("augment")
    @classmethod
    def _alone(cls, changes: tuple[str, ...]) -> tuple[str, ...]:
        if len(changes) > 1 and (words := {"auto", "none"} & set(changes)):
            raise ValueError(f"{min(words)} stands alone")
        return changes

    def changes(self, *, from_scratch: bool) -> tuple[str, ...]:
        """The random changes of training images.

        Args:
            from_scratch: Whether all of a network is trained, rather than a head on a frozen base.
        """
        if "auto" in self.augment:
            return ("flip", "rotate") if from_scratch else ()
        return tuple(change for change in self.augment if change != "none")

    @property
    def parts_of_batch(self) -> int:
        """Into how many parts a global batch is cut; see `gradient_parts`."""
        return self.gradient_parts or (1 if self.use_gpu else PARTS_ON_CPUS)

    def keeps_last(self, validation_images: int) -> bool:
        """Whether the last epoch becomes the model, whatever the validation images say of it."""
        return self.keep_epoch == "last" or (self.keep_epoch == "auto" and validation_images < FEWEST_TO_CHOOSE)

    def patience_in(self, epochs: int) -> int:
        """Epochs without a better one before a stretch of so many epochs ends."""
        if self.patience is not None:
            return self.patience
        return max(USUAL_PATIENCE, epochs // 3) if self.schedule == "cosine" else USUAL_PATIENCE


class TrainConfig(FitConfig, ImageConfig, ListingConfig, JobConfig):
    """Fit one model on a dataset folder, or on TIFFs streamed from storage."""

    GROUP = Group.FIRST

    output: Annotated[OutputUri, NOT_IDENTITY]
    """Model folder to write."""
    dataset: StorageUri | None = None
    """Dataset folder made by `convert`."""
    source: StorageUri | None = None
    """Folder of TIFFs to stream straight into training instead; no dataset folder is kept."""
    model: str = "cnn"
    """SPEC: `cnn` (with `cnn:normalise=none` its colour channels are not standardised); `cnn_bn`; a Keras Applications
    network (`vgg16`, `mobilenet:alpha=0.25,weights=URI,sha256=HEX`); a SavedModel of TF Hub (`hub:path=URI,output=KEY`:
    its folder, its `.tar.gz`, or its `https://` handle); an ONNX network
    (`onnx:path=URI,size=PX,mean=R/G/B,std=R/G/B`); an encoder of KerasHub or Hugging Face
    (`keras_hub:path=URI,pool=cls_mean`); or an earlier model of ours (`saved:path=URI`)."""

    sweep: Annotated[StorageUri | None, NOT_IDENTITY, Group.MODEL] = None
    """YAML file that says which settings to search (`SweepConfig` in `lib/config/fitting.py`): many trials are trained,
    those that fall behind are ended early, and --output gets the model of the best by its validation images."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.dataset is None) == (self.source is None):
            raise ValueError("give either --dataset or --source")
        return self


class ParameterSpace(Settings):
    """What a sweep tries for one setting: some values, or a range of numbers."""

    GROUP = Group.FIT

    values: tuple[JsonValue, ...] | None = Field(default=None, min_length=1)
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

    GROUP = Group.FIT

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
