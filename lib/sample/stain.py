"""Colours a map of tone as hematoxylin and eosin would, with equally many pixels of each colour in every image."""

import numpy as np
from numpy.typing import NDArray

from lib.sample.sheet import FloatArray

ByteArray = NDArray[np.uint8]

TONES, BALANCES = 256, 16
"""Steps of the colour table: from glass to nucleus, and from less to more eosin."""
HEMATOXYLIN = (0.5626, 0.7201, 0.4062)
EOSIN = (0.2159, 0.8012, 0.5581)
"""Natural-log optical density of red, green and blue for a unit of stain.

Source: Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009; these
numbers are the reference matrix of its public MATLAB code.
"""


def random_palette(rng: np.random.Generator) -> ByteArray:
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


def stain(tone: FloatArray, hue: FloatArray, palette: ByteArray) -> ByteArray:
    """Colour by the rank of the tone: every image has equally many pixels of each step of the palette."""
    low, high = float(tone.min()), float(tone.max())
    keys = ((tone - low) * (65535 / (high - low))).astype(np.uint16).ravel()
    step = np.empty(keys.size, np.int32)
    step[np.argsort(keys, kind="stable")] = np.arange(keys.size) * TONES // keys.size
    balance = np.clip(hue * 3 + BALANCES / 2, 0, BALANCES - 1).astype(np.int32).ravel()
    return np.asarray(palette.reshape(-1, 3)[step * BALANCES + balance]).reshape(*tone.shape, 3)
