"""The map of tone that a tissue is painted on, in micrometres of a field of view that is always as wide."""

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
PointArray = NDArray[np.float64]

FIELD_UM = 256.0
CORNERS = 14
"""Corners of the polygons that stand for circles and ellipses."""
SUBPIXEL_BITS = 4


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
        corners = np.stack([along * cos - across * sin, along * sin + across * cos], axis=2) + centres[:, None]
        fixed = np.round(corners * self.scale * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cover = np.zeros((self.size, self.size), np.uint8)
        for third, shade in enumerate((255, 225, 195)):  # one call leaves holes where its polygons overlap
            cv2.fillPoly(cover, list(fixed[third::3]), shade, cv2.LINE_AA, SUBPIXEL_BITS)
        return cover.astype(np.float32) / np.float32(255)
