"""Cartoons of stained tissue: twelve kinds that differ in shape, density and texture, not in colour.

A kind is a list of layers (fibres, cells, glands, nuclei ...) that paint one map of tone: 0 is empty glass,
about 0.5 is pink cytoplasm and 1 is a purple nucleus. The tone is then bent a little, ranked, and coloured by
rank, so that every image holds exactly the colours of a palette that was drawn without looking at its kind.
Lengths are in micrometres of a field of view that is always `FIELD_UM` wide, whatever the size in pixels.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
PointArray = NDArray[np.float64]

FIELD_UM = 256.0
CORNERS = 14
"""Corners of the polygons that stand for circles and ellipses."""
SUBPIXEL_BITS = 4
TISSUE_TONE = 0.3
"""Below this tone there is only glass or a gap."""
TONES, BALANCES = 256, 16
"""Steps of the colour table: from glass to nucleus, and from less to more eosin."""
HEMATOXYLIN = (0.5626, 0.7201, 0.4062)
EOSIN = (0.2159, 0.8012, 0.5581)
"""Natural-log optical density of red, green and blue for a unit of stain.

Source: Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009; these
numbers are the reference matrix of its public MATLAB code.
"""


class Sheet:
    """The tone map being painted, with the random numbers and the scale that its layers share."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.rng = rng
        self.scale = size / FIELD_UM
        self.tone: FloatArray = np.zeros((size, size), np.float32)

    def noise(self, period_x: float, period_y: float) -> FloatArray:
        """Smooth noise between normal nodes the given micrometres apart; shape (size, size)."""
        nodes = (int(FIELD_UM / period_y) + 2, int(FIELD_UM / period_x) + 2)
        grid = self.rng.standard_normal(nodes, np.float32)
        return np.asarray(cv2.resize(grid, (self.size, self.size), interpolation=cv2.INTER_CUBIC))

    def points(self, spacing: tuple[float, float], jitter: float) -> PointArray:
        """A staggered grid, each point moved at random; (n, 2) x and y in micrometres.

        The grid as a whole moves by up to a tenth of the spacing, as if the field had been centred on a
        structure; every point moves by up to `jitter` of the spacing.
        """
        step_x, step_y = spacing
        x, y = np.meshgrid(np.arange(-0.5, FIELD_UM / step_x + 1), np.arange(-0.5, FIELD_UM / step_y + 1))
        x[1::2] += 0.5
        grid = np.stack([x.ravel(), y.ravel()], axis=1) + self.rng.uniform(-0.1, 0.1, 2)
        moved: PointArray = (grid + self.rng.uniform(-jitter, jitter, grid.shape)) * spacing
        return moved

    def sample(self, points: PointArray) -> FloatArray:
        """The tone under each point; shape (n,). Points outside take the nearest tone inside."""
        column, row = np.clip((points * self.scale).astype(int), 0, self.size - 1).T
        return np.asarray(self.tone[row, column])

    def blend(self, weight: FloatArray, level: float | FloatArray) -> None:
        """Move the tone towards `level` by a weight between 0 and 1."""
        self.tone += (level - self.tone) * weight

    def ellipses(self, centres: PointArray, radii: PointArray, angles: PointArray) -> FloatArray:
        """Coverage between 0 and 1 of filled ellipses, shape (size, size).

        Centres and radii are (n, 2) in micrometres, angles (n,) in radians from x.
        """
        turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
        along, across = np.outer(radii[:, 0], np.cos(turn)), np.outer(radii[:, 1], np.sin(turn))
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        corners = (
            np.stack([along * cos - across * sin, along * sin + across * cos], axis=2) + centres[:, None]
        )
        fixed = np.round(corners * self.scale * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cover = np.zeros((self.size, self.size), np.uint8)
        for third, shade in enumerate((255, 225, 195)):  # one call leaves holes where its polygons overlap
            cv2.fillPoly(cover, list(fixed[third::3]), shade, cv2.LINE_AA, SUBPIXEL_BITS)
        return cover.astype(np.float32) / np.float32(255)


class Layer(Protocol):
    """Something that paints on a sheet."""

    def draw(self, sheet: Sheet) -> None:
        """Paint, taking random numbers from the sheet."""


@dataclass(frozen=True)
class Ground:
    """Cytoplasm or fibres everywhere: an even tone with noise, drawn out along x when the periods differ."""

    level: float
    grain: float
    period_x: float
    period_y: float

    def draw(self, sheet: Sheet) -> None:
        """Add the level and the noise."""
        sheet.tone += self.level + self.grain * sheet.noise(self.period_x, self.period_y)


@dataclass(frozen=True)
class Stripes:
    """Cross striation: a wave along x whose phase wanders from fibre to fibre."""

    period: float
    depth: float
    fibre: float

    def draw(self, sheet: Sheet) -> None:
        """Add the wave where there is tissue."""
        x = np.linspace(0, FIELD_UM, sheet.size, dtype=np.float32)
        phase = sheet.noise(120, self.fibre) * 0.8
        sheet.tone += self.depth * np.cos(2 * np.pi * x / self.period + phase) * (sheet.tone > TISSUE_TONE)


@dataclass(frozen=True)
class Cells:
    """A mosaic of polygons (Voronoi cells) with walls between them.

    Attributes:
        spacing: Distance between cell centres, micrometres.
        body: Tone of the cells.
        wall: Tone of the walls.
        width: Width of the walls, micrometres.
        variation: Standard deviation of the tone from cell to cell.
        dome: Tone added from the wall to the middle of a cell.
        stretch: Length of a cell along x over its height.
        nucleus: Radius of the nucleus in the middle of each cell, micrometres; 0 for none.
        jitter: Irregularity of the mosaic, as a share of the spacing.
    """

    spacing: float
    body: float
    wall: float
    width: float
    variation: float = 0.05
    dome: float = 0.0
    stretch: float = 1.0
    nucleus: float = 0.0
    jitter: float = 0.3

    def draw(self, sheet: Sheet) -> None:
        """Replace everything below by the mosaic."""
        seeds = sheet.points((self.spacing * self.stretch, self.spacing), self.jitter)
        labels, to_wall = _mosaic(sheet, seeds, self.stretch)
        shades = sheet.rng.normal(self.body, self.variation, int(labels.max()) + 1).astype(np.float32)
        inside = np.clip((to_wall - self.width / 2) / 1.5 + 0.5, 0, 1)
        sheet.tone += shades[labels] + self.dome * np.minimum(to_wall / (self.spacing / 2), 1)
        sheet.blend(1 - inside, self.wall)
        if self.nucleus:
            angles = sheet.rng.normal(0, 0.15, len(seeds))
            _nuclei(sheet, seeds, self.nucleus, min(self.stretch, 2.0), angles)


@dataclass(frozen=True)
class Nuclei:
    """Nuclei strewn over the sheet.

    Attributes:
        spacing: Distance between them before some are dropped, micrometres.
        radius: Geometric mean of the two radii, micrometres.
        elongation: Long radius over short radius; long nuclei lie along x.
        keep: Share that is kept.
        low: Only where the tone is at least this.
        high: Only where the tone is at most this.
        swirl: Standard deviation of the angle from x, radians.
        halo: Width of the empty ring around each nucleus, micrometres.
        level: Tone of the nuclei.
    """

    spacing: float
    radius: float
    elongation: float = 1.3
    keep: float = 1.0
    low: float = -9.0
    high: float = 9.0
    swirl: float = 2.0
    halo: float = 0.0
    level: float = 1.0

    def draw(self, sheet: Sheet) -> None:
        """Paint the nuclei that fall on the right tissue."""
        points = sheet.points((self.spacing, self.spacing), 0.4)
        tone = sheet.sample(points)
        points = points[
            (tone >= self.low) & (tone <= self.high) & (sheet.rng.random(len(points)) < self.keep)
        ]
        if self.halo:
            radii = np.full((len(points), 2), self.radius + self.halo)
            sheet.blend(sheet.ellipses(points, radii, np.zeros(len(points))), 0.05)
        angles = sheet.rng.normal(0, self.swirl, len(points))
        _nuclei(sheet, points, self.radius, self.elongation, angles, self.level)


@dataclass(frozen=True)
class Glands:
    """Round glands or tubules: a ring of cells with nuclei around a lumen.

    Attributes:
        spacing: Distance between glands along x and y, micrometres.
        radius: Outer radius, micrometres.
        lumen: Radius of the lumen as a share of the outer radius.
        body: Tone of the cells.
        nuclei: Number of nuclei in the ring.
        nucleus: Radius of a nucleus, micrometres.
        seat: Distance of the nuclei from the centre as a share of the outer radius.
        elongation: Of the nuclei, which point to the centre.
        drops: Radius of the mucus drop between nuclei and lumen, micrometres; 0 for none.
        height: Extent along y over the extent along x.
    """

    spacing: tuple[float, float]
    radius: float
    lumen: float
    body: float
    nuclei: int
    nucleus: float
    seat: float
    elongation: float = 1.0
    drops: float = 0.0
    height: float = 1.0

    def draw(self, sheet: Sheet) -> None:
        """Paint the glands over what is below."""
        centres = sheet.points(self.spacing, 0.1)
        radii = self.radius * sheet.rng.uniform(0.9, 1.1, (len(centres), 2)) * (1, self.height)
        angles = np.zeros(len(centres))
        sheet.blend(np.minimum(sheet.ellipses(centres, radii * 1.1, angles) * 2, 1), 0.3)
        sheet.blend(sheet.ellipses(centres, radii, angles), self.body)
        sheet.blend(sheet.ellipses(centres, radii * self.lumen, angles), 0.0)
        if self.drops:
            drops, turn = self._ring(sheet, centres, 0.7 * self.seat + 0.3 * self.lumen)
            sheet.blend(sheet.ellipses(drops, np.full((len(drops), 2), self.drops), turn), 0.08)
        seats, turn = self._ring(sheet, centres, self.seat)
        _nuclei(sheet, seats, self.nucleus, self.elongation, turn)

    def _ring(self, sheet: Sheet, centres: PointArray, share: float) -> tuple[PointArray, PointArray]:
        """Places around every centre and the direction outwards at each."""
        start = sheet.rng.uniform(0, 2 * np.pi, (len(centres), 1))
        wobble = sheet.rng.normal(0, 0.08, (len(centres), self.nuclei))
        turn = start + np.linspace(0, 2 * np.pi, self.nuclei, endpoint=False) + wobble
        offset = np.stack([np.cos(turn), np.sin(turn)], axis=2) * (
            self.radius * share,
            self.radius * self.height * share,
        )
        return (centres[:, None] + offset).reshape(-1, 2), turn.ravel()


@dataclass(frozen=True)
class Lamellae:
    """Osteons: thin shells around canals, with flat lacunae lying between the shells."""

    spacing: float
    period: float
    canal: float

    def draw(self, sheet: Sheet) -> None:
        """Paint the shells, the canals and the lacunae."""
        centres = sheet.points((self.spacing, self.spacing), 0.2)
        x, y = np.meshgrid(*[np.linspace(0, FIELD_UM, sheet.size, dtype=np.float32)] * 2)
        nearest = np.full(sheet.tone.shape, FIELD_UM, np.float32)
        for centre_x, centre_y in centres:
            np.minimum(
                nearest, cv2.magnitude(x - np.float32(centre_x), y - np.float32(centre_y)), out=nearest
            )
        sheet.tone += 0.5 + 0.14 * np.cos(2 * np.pi * nearest / self.period)
        self._lacunae(sheet, centres)
        sheet.blend(np.clip((self.canal - nearest) / 2, 0, 1), 0.0)

    def _lacunae(self, sheet: Sheet, centres: PointArray) -> None:
        """Flat dark cells along the shells of their nearest canal."""
        points = sheet.points((24, 24), 0.4)
        offset = points[:, None] - centres[None]
        nearest = np.argmin((offset**2).sum(axis=2), axis=1)
        x, y = offset[np.arange(len(points)), nearest].T
        angles = np.arctan2(y, x) + np.pi / 2
        radii = np.tile([5.5, 3.4], (len(points), 1))
        sheet.blend(sheet.ellipses(points, radii, angles), 0.1)
        _nuclei(sheet, points, 2.6, 2.4, angles)


@dataclass(frozen=True)
class Band:
    """A layer of tissue across the field, between two wavy depths."""

    top: float
    bottom: float
    level: float
    grain: float = 0.03

    def draw(self, sheet: Sheet) -> None:
        """Paint the band over what is below."""
        y = np.linspace(0, FIELD_UM, sheet.size, dtype=np.float32)[:, None]
        depth = y + 10 * sheet.noise(40, 400)
        sheet.blend(
            np.clip(np.minimum(depth - self.top, self.bottom - depth), 0, 1),
            self.level + self.grain * sheet.noise(30, 4),
        )


@dataclass(frozen=True)
class TissueKind:
    """How one kind of tissue is drawn.

    Attributes:
        name: The label.
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
        kind: What to draw.
        rng: The only source of randomness: the same state gives the same image.
        size: Side in pixels; the field of view stays `FIELD_UM` wide.

    Returns:
        RGB, uint8, shape (size, size, 3).
    """
    sheet = Sheet(size, rng)
    for layer in kind.layers:
        layer.draw(sheet)
    sheet.tone += 0.04 * sheet.noise(3, 3) + 0.015 * sheet.noise(60, 60)
    palette = _palette(rng)
    tone = cv2.GaussianBlur(_bend(sheet, kind), (0, 0), 1.15 * sheet.scale)
    return _stain(np.asarray(tone, np.float32), sheet.noise(40, 40), palette)


def _mosaic(sheet: Sheet, seeds: PointArray, stretch: float) -> tuple[NDArray[np.int32], FloatArray]:
    """The cell of each pixel (numbers from 1) and the distance to the nearest cell wall in micrometres."""
    width = max(round(sheet.size / stretch), 8)
    column, row = (seeds * (width / FIELD_UM, sheet.scale)).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < sheet.size)
    empty = np.ones((sheet.size, width), np.uint8)
    empty[row[inside], column[inside]] = 0
    _, narrow = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = cv2.resize(narrow.astype(np.float32), (sheet.size, sheet.size), interpolation=cv2.INTER_NEAREST)
    numbers = labels.astype(np.int32)
    same = np.ones((sheet.size, sheet.size), np.uint8)
    same[:, 1:] &= numbers[:, 1:] == numbers[:, :-1]
    same[1:] &= numbers[1:] == numbers[:-1]
    return numbers, cv2.distanceTransform(same, cv2.DIST_L2, 5) / np.float32(sheet.scale)


def _nuclei(
    sheet: Sheet,
    centres: PointArray,
    radius: float,
    elongation: float,
    turn: PointArray,
    level: float = 1.0,
) -> None:
    """Paint nuclei of varying size at the centres, (n, 2) in micrometres, with long axes turned by (n,)."""
    sizes = radius * sheet.rng.uniform(0.8, 1.2, (len(centres), 1))
    radii = sizes * (np.sqrt(elongation), 1 / np.sqrt(elongation))
    sheet.blend(sheet.ellipses(centres, radii, turn), level)


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


def _palette(rng: np.random.Generator) -> ByteArray:
    """A random staining: RGB by rank of the tone and by balance of eosin, uint8 (TONES, BALANCES, 3).

    Intensity = light * exp(-amounts times stain vectors), the law of Beer and Lambert.
    """
    glass, nuclei = rng.uniform(0.19, 0.29), rng.uniform(0.12, 0.16)
    rank = np.linspace(0, 1, TONES)
    eosin = np.interp(rank, [0, glass, glass + 0.2, 1 - nuclei, 1], [0.01, 0.08, 0.6, 1.1, 1.0])
    hematoxylin = np.interp(
        rank, [0, glass, 0.75 - nuclei, 1 - nuclei, 1 - nuclei / 2, 1], [0.01, 0.02, 0.14, 0.4, 1.3, 1.9]
    )
    balance = np.linspace(0.8, 1.2, BALANCES)
    amounts = np.stack(
        [
            np.repeat(hematoxylin[:, None], BALANCES, 1) * rng.uniform(0.88, 1.14),
            np.outer(eosin, balance) * rng.uniform(0.88, 1.14),
        ],
        axis=2,
    )
    vectors = np.array([HEMATOXYLIN, EOSIN]) * rng.normal(1, 0.03, (2, 3))
    light = rng.uniform(238, 252) * rng.normal(1, 0.008, 3)
    return np.asarray(np.clip(light * np.exp(-amounts @ vectors), 0, 255), np.uint8)


def _stain(tone: FloatArray, hue: FloatArray, palette: ByteArray) -> ByteArray:
    """Colour by the rank of the tone: every image has equally many pixels of each step of the palette."""
    low, high = float(tone.min()), float(tone.max())
    keys = ((tone - low) * (65535 / (high - low))).astype(np.uint16).ravel()
    step = np.empty(keys.size, np.int32)
    step[np.argsort(keys, kind="stable")] = np.arange(keys.size) * TONES // keys.size
    balance = np.clip(hue * 3 + BALANCES / 2, 0, BALANCES - 1).astype(np.int32).ravel()
    return np.asarray(palette.reshape(-1, 3)[step * BALANCES + balance]).reshape(*tone.shape, 3)
