"""Files that give classes away are told when a conversion ends, whoever began it."""

from collections.abc import Callable
from pathlib import Path

import pytest

import lib
from tests.fakes.jobs import job_here, logged
from tests.fakes.sources import striped_image, write_tiff

COMPRESSIONS = {"liver": "zlib", "lung": None}
SIZE = 32


def by_command(source: Path, output: Path) -> None:
    job_here("convert", "--source", source, "--output", output, "--image-size", SIZE)


def from_python(source: Path, output: Path) -> None:
    lib.convert(source=str(source), output=str(output), image_size=SIZE)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("convert", [by_command, from_python])
def test_a_class_whose_files_are_compressed_in_another_way_is_told(
    convert: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for number, (label, compression) in enumerate(COMPRESSIONS.items()):
        for seed in range(10):
            write_tiff(source / "train" / label / f"{seed}.tif", striped_image(number, 2, SIZE, seed), compression)
    with logged() as log:
        convert(source, tmp_path / "dataset")
    [told] = [line for line in log.getvalue().splitlines() if "give the class away" in line]
    assert "the compression (100 %)" in told
