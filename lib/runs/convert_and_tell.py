"""Conversion as its jobs run it: the images, and what is told of their files before anything is trained."""

from lib.config.conversion import ConvertConfig
from lib.folders.dataset import DatasetRecord
from lib.ingest.convert import convert_images
from lib.storage.location import Location


def convert_and_tell(config: ConvertConfig, *, needs_test: bool = False) -> DatasetRecord:
    """Convert (see `convert_images`), and say so where the files give the class of an image away."""
    record = convert_images(config, needs_test=needs_test)
    # Here, so that scikit-learn is imported when the images are done and not before the first is read.
    from lib.evaluation.checks.file_properties import read_file_properties, tell_file_properties

    tell_file_properties(read_file_properties(Location(config.output)))
    return record
