"""Cartoons of stained tissue: twelve kinds that differ in shape, density and texture, not in colour.

A kind is a list of layers (fibres, cells, glands, nuclei ...) that paint one map of tone: 0 is empty glass,
about 0.5 is pink cytoplasm and 1 is a purple nucleus. The tone is then bent a little, ranked, and coloured by
rank, so that every image holds exactly the colours of a palette that was drawn without looking at its kind.
Lengths are in micrometres of a field of view that is always `FIELD_UM` wide, whatever the size in pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from lib.sample.layers import Band, Cells, Glands, Ground, Lamellae, Layer, Nuclei, Stripes
from lib.sample.sheet import FloatArray, Sheet
from lib.sample.stain import ByteArray, random_palette, stain


@dataclass(frozen=True)
class TissueKind:
    """How one kind of tissue is drawn.

    Attributes:
        layers: Painted in this order.
        bend: How far the tissue is bent, micrometres.
        tilt: Largest angle to the horizontal, radians.
        drift: Largest shift along y, micrometres.
    """

    name: str
    layers: tuple[Layer, ...]
    bend: float = 3.0
    tilt: float = 0.0
    drift: float = 0.0


TISSUES = (
    TissueKind(
        "skin",
        (
            Ground(0.5, 0.08, 30, 4),
            Nuclei(26, 2.6, 2.5, keep=0.6, swirl=0.5),
            Band(-90, 48, 0.0),
            Band(48, 66, 0.36),
            Band(66, 128, 0.72),
            Nuclei(9, 2.9, 1.2, low=0.62, high=0.82),
        ),
        tilt=0.15,
        drift=15,
    ),
    TissueKind(
        "lung",
        (Cells(40, 0.0, 0.5, 9, dome=-0.1, jitter=0.22), Nuclei(8, 2.4, 1.4, keep=0.8, low=0.3)),
        bend=7,
    ),
    TissueKind("liver", (Cells(18, 0.48, 0.05, 2.2, dome=0.06, nucleus=3.6, jitter=0.2),)),
    TissueKind(
        "kidney",
        (
            Ground(0.25, 0.08, 10, 10),
            Nuclei(14, 2.0, 1.8, keep=0.6),
            Glands((48, 42), 22, 0.45, 0.5, nuclei=9, nucleus=3.2, seat=0.74),
            Nuclei(170, 32, 1.1, halo=7, level=0.72),
            Nuclei(8, 2.5, 1.3, low=0.57, high=0.76, keep=0.8),
        ),
    ),
    TissueKind("spleen", (Ground(0.3, 0.22, 20, 20), Nuclei(8.5, 2.7, 1.1, low=0.2))),
    TissueKind(
        "brain",
        (
            Ground(0.38, 0.12, 3.2, 3.2),
            Ground(0.0, 0.03, 20, 20),
            Nuclei(56, 5.0, 1.5, halo=4, keep=0.8),
            Nuclei(40, 2.4, 1.0, halo=2, keep=0.7),
        ),
    ),
    TissueKind(
        "heart",
        (Cells(15, 0.52, 0.08, 2.5, stretch=4.5, nucleus=2.8, jitter=0.35), Ground(0, 0.05, 30, 3)),
        bend=8,
        tilt=0.25,
    ),
    TissueKind(
        "stomach",
        (
            Ground(0.4, 0.06, 4, 30),
            Nuclei(10, 2.0, 2.0, keep=0.4),
            Glands((32, 190), 14, 0.22, 0.4, nuclei=54, nucleus=2.5, seat=0.8, height=7.0),
        ),
        tilt=0.1,
    ),
    TissueKind(
        "colon",
        (
            Ground(0.4, 0.08, 9, 9),
            Nuclei(11, 2.1, 1.3, keep=0.6),
            Glands((100, 92), 43, 0.25, 0.5, nuclei=18, nucleus=3.4, seat=0.88, elongation=1.7, drops=4.5),
        ),
    ),
    TissueKind(
        "muscle",
        (
            Cells(27, 0.5, 0.0, 3.5, stretch=14, jitter=0.25),
            Stripes(5.2, 0.13, 13),
            Nuclei(20, 2.3, 4.0, high=0.3, swirl=0.08),
        ),
        tilt=0.2,
    ),
    TissueKind(
        "fat",
        (
            Cells(72, 0.0, 0.55, 2.4, dome=-0.3, jitter=0.15),
            Band(95, 160, 0.55, grain=0.1),
            Nuclei(13, 2.2, 2.5, keep=0.7, low=0.33, swirl=0.6),
        ),
        tilt=0.6,
        drift=30,
    ),
    TissueKind("bone", (Lamellae(130, 15, 14),), bend=5),
)
"""The twelve kinds, in no particular order."""


def draw_tissue(kind: TissueKind, rng: np.random.Generator, size: int) -> ByteArray:
    """One image of the tissue, coloured as if stained with hematoxylin and eosin.

    Args:
        rng: The only source of randomness: the same state gives the same image.
        size: Side in pixels; the field of view stays `FIELD_UM` wide.

    Returns:
        RGB, uint8, shape (size, size, 3).
    """
    sheet = Sheet(size, rng)
    for layer in kind.layers:
        layer.draw(sheet)
    sheet.tone += 0.04 * sheet.noise(3, 3) + 0.015 * sheet.noise(60, 60)
    palette = random_palette(rng)
    tone = cv2.GaussianBlur(_bend(sheet, kind), (0, 0), 1.15 * sheet.scale)
    return stain(np.asarray(tone, np.float32), sheet.noise(40, 40), palette)


def _bend(sheet: Sheet, kind: TissueKind) -> FloatArray:
    """The tone after a smooth displacement, a turn and a shift; mirrored at the border."""
    angle = sheet.rng.uniform(-kind.tilt, kind.tilt)
    shift = sheet.rng.uniform(-kind.drift, kind.drift) * sheet.scale
    half = (sheet.size - 1) / 2
    x = (np.arange(sheet.size, dtype=np.float32) - np.float32(half))[None]
    y = x.T
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    reach = np.float32(kind.bend * sheet.scale)
    map_x = cos * x - sin * y + reach * sheet.noise(90, 90) + np.float32(half)
    map_y = sin * x + cos * y + reach * sheet.noise(90, 90) + np.float32(half + shift)
    return np.asarray(cv2.remap(sheet.tone, map_x, map_y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101))
