"""The checks folder: what any model's score on a data set has to be read beside, whichever model it is.

Near duplicates across splits, and what a colour histogram alone achieves. All evaluations of a split share one folder.
"""

from lib.config.base import JobConfig
from lib.dataset.shard_source import ShardSource
from lib.evaluation.checks.colour_baseline import Baseline
from lib.evaluation.checks.descriptors import describe_images
from lib.evaluation.checks.file_properties import read_file_properties
from lib.evaluation.checks.near_duplicates import NearDuplicates
from lib.evaluation.checks.pairs import write_pair_thumbnails
from lib.folders.checks import ChecksRecord, write_baseline, write_near_duplicates
from lib.folders.output import OutputFolder
from lib.storage.location import Location


def run_checks(dataset: ShardSource, split: str, output: Location, config: JobConfig) -> ChecksRecord:
    """Check a data set, unless its checks are in the folder already.

    Args:
        dataset: All of its splits are searched for near duplicates.
        split: What the baseline predicts.
        output: The checks folder.
        config: How Ray is started.

    Raises:
        SettingsError: If the folder holds the checks of another data set or split, or another run is writing there.
        StorageError: If images cannot be read or results not written.
    """
    folder = OutputFolder(output, ChecksRecord, {"split": split}, {"dataset_hash": dataset.content_hash})
    return folder.once(lambda: _check(dataset, split, folder, config))


def _check(dataset: ShardSource, split: str, folder: OutputFolder[ChecksRecord], config: JobConfig) -> ChecksRecord:
    descriptors = describe_images(dataset, folder.location, config)
    duplicates = NearDuplicates.among(descriptors)
    write_near_duplicates(duplicates.pairs, folder.location)
    write_pair_thumbnails(duplicates.pairs, split, dataset, folder.location, folder.location)
    baseline = Baseline.of(descriptors, split, dataset.class_names)
    write_baseline(baseline.rows, folder.location)
    return folder.complete(
        ChecksRecord(
            dataset=dataset.folder.uri,
            split=split,
            images=descriptors.num_rows,
            near_duplicates=duplicates.pairs.num_rows,
            near_duplicate_images=len(duplicates.pairs["image_id"].unique()),
            most_different_bits=duplicates.most_different_bits,
            baseline=baseline.record,
            file_properties=read_file_properties(dataset.folder),
        )
    )
