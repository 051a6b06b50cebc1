"""What tissues are made of: each layer paints fibres, cells, glands or nuclei on a sheet."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.sample.sheet import FIELD_UM, FloatArray, PointArray, Sheet

TISSUE_TONE = 0.3
"""Below this tone there is only glass or a gap."""


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
        points = points[(tone >= self.low) & (tone <= self.high) & (sheet.rng.random(len(points)) < self.keep)]
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
        elongation: Elongation of the nuclei, which point to the centre.
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
            np.minimum(nearest, cv2.magnitude(x - np.float32(centre_x), y - np.float32(centre_y)), out=nearest)
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
