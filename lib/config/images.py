"""From listed files to small RGB images: decoding, listing, splits."""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from lib.config.base import NOT_IDENTITY, Group, Settings, StorageUri

WHOLE_LEVEL = "0"


class TiffPolicy(Settings):
    """How a TIFF becomes 8-bit RGB. One policy a data set; a model keeps the one it was trained with."""

    GROUP = Group.TIFF

    max_pixels: int = Field(default=500_000_000, ge=1)
    """Refuse an image that declares more pixels than this, before anything is allocated; for `--tiff-page
    max-projection` all its pages together."""
    max_image_gib: float = Field(default=4.0, gt=0)
    """Refuse an image that takes more memory than this to decode, in GiB, with all that is held at once: an RGB one of
    16 bits and 12,000 x 12,000 pixels takes 1.6 read whole, and little more than its file by strips or tiles."""
    tiff_range: str = "auto"
    """Sample values that become black and white, for samples of more than 8 bits, signed ones and floats. `auto`:
    unsigned integers from 0 to the top of the bits that the files state; floats [0, 1] if they lie within; else as
    `percentile`: the `--tiff-percentiles` of training images of all classes, measured once, but files of different
    scales are refused. Or `LOW:HIGH` (`0:4095`, `--tiff-range=-1:1`), also by type (`uint16=0:4095,float32=0:1`)."""
    tiff_percentiles: tuple[float, float] = (0.1, 99.9)
    """Percentiles of the pooled samples that become black and white where the range is measured."""
    tiff_page: str = "first"
    """Which page of a file: `first`, its number counted from 0, or `max-projection`, the brightest over all pages
    (over the depths alone, where ImageJ's or OME's description tells them)."""
    tiff_pages_as: Literal["pages", "channels"] = "pages"
    """What the pages of a file are: images, of which --tiff-page chooses; or `channels`: two or three gray pages that
    are the red, the green and the blue of one image (ImageJ's and OME's composites). With `channels`, --tiff-channels
    chooses among the pages, and --tiff-page among depths, where ImageJ's or OME's description tells them apart."""
    tiff_level: str = WHOLE_LEVEL
    """Which level of a pyramid, as whole-slide files hold them: its number, where `0` is the whole image; or
    micrometres a pixel (`2um`), and the coarsest level is read that is no coarser. Needs --tiff-page first."""
    tiff_channels: str = "auto"
    """Which samples of a pixel: `auto` by their stated meaning, refusing more than 4; or one number for gray or three
    for red, green and blue, counted from 0 (`2` or `0,3,1`), taken as plain intensities."""
    tiff_alpha: Literal["white", "ignore", "refuse"] = "white"
    """Transparency: laid over `white`, dropped (as is an extra sample of unknown meaning), or a reason to refuse."""
    tiff_orientation: Literal["apply", "ignore"] = "apply"
    """Whether to turn images upright as their orientation tag says, or leave them as stored."""
    tiff_constant: Literal["keep", "refuse"] = "keep"
    """What to do with an image whose pixels all have one colour."""

    @field_validator("tiff_range", "tiff_page", "tiff_level", "tiff_channels", mode="before")
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

    @field_validator("tiff_level")
    @classmethod
    def _known_level(cls, text: str) -> str:
        if not re.fullmatch(r"[0-9]{1,2}|[0-9]{1,4}(\.[0-9]{1,4})?um", text) or text.strip("0.") == "um":
            raise ValueError("expected a number counted from 0, or micrometres a pixel above 0, such as 2um or 0.5um")
        return text

    @model_validator(mode="after")
    def _level_of_whole_pages(self) -> Self:
        if self.tiff_level != WHOLE_LEVEL and (self.tiff_page, self.tiff_pages_as) != ("first", "pages"):
            raise ValueError("--tiff-level needs --tiff-page first and --tiff-pages-as pages")
        return self

    @property
    def level(self) -> tuple[int, float | None]:
        """The number of a level; or any number, and micrometres a pixel."""
        if self.tiff_level.endswith("um"):
            return 0, float(self.tiff_level.removesuffix("um"))
        return int(self.tiff_level), None

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


class ImageConfig(TiffPolicy):
    """From any TIFF to a small encoded image."""

    GROUP = Group.IMAGES

    image_size: Annotated[int, Group.FIRST] = Field(default=180, ge=16, le=4096)
    """Side of the square images that models see, in pixels; `train --dataset` takes that of the dataset."""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality of the converted images, 1 to 100."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression."""


class UnitConfig(Settings):
    """How listed images are cut into units of work, and how many may be bad."""

    GROUP = Group.IMAGES

    max_bad_fraction: Annotated[float, NOT_IDENTITY] = Field(default=0.0, ge=0, le=1)
    """Share of the images that may be quarantined before the run stops (exit code 3)."""
    images_per_shard: int | None = Field(default=None, ge=1)
    """Images in one unit of work and one shard; by default a sixteenth of the images, between 16 and 512."""


class ListingConfig(UnitConfig):
    """Which split each listed image belongs to."""

    GROUP = Group.IMAGES

    validation_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the training images of each class kept for validation (at least one a class, unless 0)."""
    labels: StorageUri | None = None
    """CSV table with the columns path (relative to the source), label and, if wanted, split (train, validation or
    test; train unless stated), group, site and any others (scanner, stain, age), which are kept beside the images; for
    a source that is not laid out as `train/<label>/*.tif`."""
    group_by: Pattern | None = None
    """What must stay together in one split, such as a slide or a patient: a column of --labels, or a regular expression
    searched in each path, whose first parenthesis names the group."""
    site_by: Pattern | None = None
    """Where each image was made, such as a hospital or a scanner: a column of --labels (`site` unless told), or a
    regular expression searched in each path, whose first parenthesis names the site."""
    duplicates: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with images of the same bytes: refuse them in two classes or in train and test; drop all but one; or
    keep them all. They are counted in any case."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random: the validation split, weights, the order of images."""
