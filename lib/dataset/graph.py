"""The Ray Data graph that decodes a range of a split."""

import ray.data

from lib.dataset.source import DECODED_SCHEMA, ImageSource
from lib.ray_data import map_units, units_dataset


def decoded_dataset(source: ImageSource, split: str, positions: range) -> "ray.data.Dataset":
    """A dataset whose blocks are the decoded units (`DECODED_SCHEMA`) that cover the positions of a split."""
    units = source.units(split, positions.start, positions.stop)
    if not units:
        return units_dataset([DECODED_SCHEMA.empty_table()])
    return map_units(units_dataset(units), source.decoder, num_cpus=1)
