"""A conversion in this process, unit by unit, where the job has Ray run the units."""

import pytest

from lib.config.conversion import ConvertConfig
from lib.folders.dataset import DatasetRecord
from lib.ingest import convert


def convert_here(config: ConvertConfig) -> DatasetRecord:
    """What `convert_images` does, without Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            convert,
            "convert_units",
            lambda units, config, _: [convert.convert_unit(u, **convert.unit_arguments(config)) for u in units],
        )
        return convert.convert_images(config)
