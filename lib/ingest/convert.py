"""The Ray Data graph from TIFFs in storage to a dataset folder of small JPEG images in Parquet shards."""

import logging
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from lib.config.conversion import ConvertConfig
from lib.config.images import ImageConfig
from lib.errors import DataError, MemoryKillsError
from lib.folders.columns import read_columns
from lib.folders.dataset import DatasetRecord
from lib.folders.manifest import MANIFEST_SCHEMA, Accounting, content_digest, write_manifest
from lib.folders.output import OutputFolder
from lib.folders.shards import ImageEncoding, ShardFile, read_verdicts, shards_of, write_shard
from lib.ingest.duplicates import find_duplicates
from lib.ingest.image import encode_jpeg
from lib.ingest.jpeg_folder import check_jpegs, jpeg_path, refuse_labels_that_are_no_folders
from lib.ingest.listing import ADDED, Listing, list_labelled
from lib.ingest.pixel_doubts import find_pixel_doubts, scale_of, tell_pixel_doubts
from lib.ingest.tiff.ranges import with_ranges_of_run
from lib.ingest.unit import FETCH_BYTES, read_unit
from lib.ingest.update import CONVERTED_SCHEMA, Earlier, keep_unchanged, shard_names, with_shard
from lib.runtime.counters import count_images
from lib.runtime.logs import join_stage
from lib.runtime.memory_kills import GIB, fewer_at_once
from lib.runtime.progress import Progress
from lib.runtime.ray_data import decoding, map_units, off_gpus, start_ray, stream_tables, units_dataset
from lib.storage.location import Location

logger = logging.getLogger(__name__)

LARGE_BYTES = 2**30
"""From which on images are not decoded on every CPU at once unless there is room for it."""
TASK_BYTES = 2 * FETCH_BYTES + 2**29
"""What a task takes beside the image that it decodes: files on their way, and its programs."""


def convert_images(config: ConvertConfig, *, needs_test: bool = False) -> DatasetRecord:
    """Convert every image under the source and account for each of them; what is already done is not done again.

    Args:
        needs_test: Whether a source without test images is refused.

    Raises:
        SettingsError: If the source is missing or empty, or the output holds another run.
        DataError: If the classes cannot be trained on, or there are no test images where they are needed.
        MemoryKillsError: If one task at once takes more memory than its machine has.
        TooManyBadImagesError: If more images are quarantined than allowed; the manifest then names them.
        StorageError: If storage fails beyond its retries.
    """
    listing = list_labelled(Location(config.source), config)
    if needs_test and not pc.any(pc.equal(listing.images["split"], "test")).as_py():
        raise DataError(f"--source {config.source} has no test images to evaluate; use `convert` and `train` instead")
    if config.layout == "folder":
        refuse_labels_that_are_no_folders(listing.class_names)
    inputs = {"source_listing": listing.content_hash}
    folder = OutputFolder(
        Location(config.output),
        DatasetRecord,
        config.identity(),
        inputs,
        parts_name_their_inputs=True,
        may_update=config.update,
    )
    return folder.once(lambda: _convert_listing(config, listing, folder))


def with_memory_for(decoding_bytes: int, config: ConvertConfig) -> ConvertConfig:
    """Reserve memory for each task, where images are so large that one for each CPU may not fit at once.

    Args:
        decoding_bytes: That the most demanding of some images takes; 0 if none was looked at.
    """
    if config.convert_memory_gib is not None or decoding_bytes < LARGE_BYTES:
        return config
    needed = (decoding_bytes + TASK_BYTES) / 2**30
    logger.info(
        "some images take %.1f GiB to decode, so each task reserves %.1f GiB; --convert-memory-gib sets it",
        decoding_bytes / 2**30,
        needed,
    )
    return config.part(ConvertConfig, convert_memory_gib=needed)


def _convert_listing(config: ConvertConfig, listing: Listing, folder: OutputFolder[DatasetRecord]) -> DatasetRecord:
    earlier = Earlier([], listing)
    if folder.is_complete():
        earlier = keep_unchanged(listing, shards_of(folder.location))
        config = config.part(ConvertConfig, tiff_range=folder.record().image_policy.tiff_range)
    config, decoding_bytes = with_ranges_of_run(folder, Location(config.source), listing.images, config)
    config = with_memory_for(decoding_bytes, config)
    units = earlier.remaining.units(config.images_per_shard, made_with=config.tiff_range)
    with Progress("convert", listing.images.num_rows) as progress:
        progress.advance(sum(table.num_rows for table in earlier.verdicts))
        converted = pa.concat_tables([*earlier.verdicts, *convert_units(units, config, progress)])
        seconds = progress.seconds
    manifest = pa.concat_tables([converted.select(MANIFEST_SCHEMA.names), listing.excluded])
    accounting = Accounting.of(manifest, listing.ids)
    write_manifest(manifest, folder.location)
    if config.layout == "folder":
        check_jpegs(folder.location, converted)
    accounting.refuse_too_many_bad(config.max_bad_fraction, folder.location)
    refuse_emptied_classes(converted, listing.class_names)
    duplicates = find_duplicates(converted)
    if config.duplicates == "refuse":
        duplicates.refuse(Location(config.source))
    pixels = find_pixel_doubts(manifest, config)
    tell_pixel_doubts(pixels, Location(config.source))
    record = DatasetRecord(
        class_names=listing.class_names,
        image_size=config.image_size,
        image_policy=config.part(ImageConfig),
        encoding=ImageEncoding(format="jpeg", quality=config.quality),
        source=config.source,
        counts=accounting.counts,
        counts_by_split=accounting.by_split,
        reasons=accounting.reasons,
        shards=_shard_files(converted),
        content_hash=content_hash(converted, config),
        duplicates=duplicates.counts,
        pixels=pixels,
        micrometres=scale_of(manifest),
        columns=list(read_columns(manifest["columns"].unique().to_pylist())),
        columns_hash=columns_hash(converted),
        seconds=round(seconds, 3),
    )
    return _finish(folder, record, shard_names([converted]))


def _finish(folder: OutputFolder[DatasetRecord], record: DatasetRecord, shards: set[str]) -> DatasetRecord:
    """Complete the folder and delete shards that are no longer part of the data set.

    Before a first completion, but after an update: the record that readers find always names shards that exist.
    """
    if folder.is_complete():
        completed = folder.complete(record)
        _delete_other_shards(shards_of(folder.location), shards)
        return completed
    _delete_other_shards(shards_of(folder.location), shards)
    return folder.complete(record)


def refuse_emptied_classes(manifest: pa.Table, class_names: list[str]) -> None:
    """Stop when quarantine has left a class without a training image.

    Raises:
        DataError: Naming the first such class.
    """
    accepted = pc.and_(pc.equal(manifest["verdict"], "accepted"), pc.equal(manifest["split"], "train"))
    left = set(manifest["label"].filter(accepted).unique().to_pylist())
    for name in class_names:
        if name not in left:
            raise DataError(f"class {name!r} has no usable training image left; see the reasons in manifest.parquet")


def convert_units(units: list[pa.Table], config: ConvertConfig, progress: Progress) -> Iterator[pa.Table]:
    """Have Ray convert units, and yield the verdicts on each one (`CONVERTED_SCHEMA`) as it is done."""
    if not units:
        return
    start_ray(config)
    left = {unit["shard"][0].as_py(): unit for unit in units}
    reserved: Mapping[str, float] = decoding(config)
    while left:
        try:
            for verdicts in _converted(list(left.values()), config, reserved):
                progress.advance(verdicts.num_rows)
                accepted = pc.sum(pc.equal(verdicts["verdict"], "accepted")).as_py()
                count_images("convert", accepted, verdicts.num_rows - accepted)
                del left[verdicts["shard"][0].as_py()]
                yield verdicts.cast(CONVERTED_SCHEMA)
        except MemoryKillsError as error:
            reserved = _fewer_at_once(reserved, error, progress)


def _converted(units: list[pa.Table], config: ConvertConfig, reserved: Mapping[str, float]) -> Iterator[pa.Table]:
    graph = map_units(units_dataset(units), convert_unit, fn_kwargs=unit_arguments(config), **reserved)
    return stream_tables(off_gpus(graph) if config.keep_gpus_free else graph)


def _fewer_at_once(reserved: Mapping[str, float], error: MemoryKillsError, progress: Progress) -> Mapping[str, float]:
    """What to reserve for each task from now on, which is told.

    Raises:
        MemoryKillsError: If a task ran out of memory that had its machine to itself.
    """
    fewer = fewer_at_once(reserved)
    if fewer is None:
        raise MemoryKillsError(
            "converting ran out of memory even with one task at once on a machine: use a machine with more memory, or "
            "refuse the largest images by --max-image-gib; what is converted is kept"
        ) from error
    share_gib = fewer["memory"] / GIB
    progress.note(
        f"a machine ran out of memory: going on with half as many tasks at once, which reserve {share_gib:.1f} GiB "
        f"each (--convert-memory-gib {share_gib:.1f} does so from the start)"
    )
    return fewer


def unit_arguments(config: ConvertConfig) -> dict[str, object]:
    """What `convert_unit` takes beside a unit. Shards are listed once: each unit asking would cost round trips."""
    written = frozenset(file.path for file in shards_of(Location(config.output)).list_files())
    return {"config": config, "written": written}


def convert_unit(unit: pa.Table, config: ConvertConfig, written: frozenset[str] = frozenset()) -> pa.Table:
    """Convert one unit to one shard, unless that shard is already there.

    Args:
        unit: Rows of `LISTING_SCHEMA` and the name of their `shard`.
        config: The settings of the run.
        written: The shards that are there.

    Returns:
        The verdict on each file (`MANIFEST_SCHEMA`) and its `shard`.
    """
    join_stage("convert")
    shard = unit["shard"][0].as_py()
    output = Location(config.output)
    location = shards_of(output) / shard
    if shard in written:
        return with_shard(read_verdicts(location), shard)
    rows, images = [], []
    for result in read_unit(unit, Location(config.source), config):
        rows.append(result.row)
        if result.image is not None:
            encoded = encode_jpeg(result.image, config.quality)
            images.append(result.row | {"height": result.height, "width": result.width, "image": encoded})
    if config.layout == "folder":
        output.write_many({jpeg_path(image): image["image"] for image in images})
    verdicts = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    write_shard(images, verdicts, location)
    return with_shard(verdicts, shard)


def _shard_files(converted: pa.Table) -> list[ShardFile]:
    """The shards that have accepted images, and how many."""
    shards = (
        pa.table({"shard": converted["shard"].cast(pa.string()), "split": converted["split"]})
        .filter(pc.equal(converted["verdict"], "accepted"))
        .group_by(["shard", "split"])
        .aggregate([([], "count_all")])
        .sort_by("shard")
        .to_pylist()
    )
    return [ShardFile(file=row["shard"], split=row["split"], images=row["count_all"]) for row in shards]


def content_hash(manifest: pa.Table, config: ConvertConfig) -> str:
    """Changes when an image, its label, its split or its conversion changes."""
    columns = manifest.select(["image_id", "checksum", "label", "split", "verdict"]).sort_by("image_id")
    return content_digest(columns, config.part(ImageConfig).model_dump_json())


def columns_hash(manifest: pa.Table) -> str | None:
    """Changes when the site of an image or another column changes; None where there is neither."""
    known = manifest.filter(pc.or_(pc.is_valid(manifest["site"]), pc.is_valid(manifest["columns"])))
    return content_digest(known.select(["image_id", *ADDED]).sort_by("image_id")) if known.num_rows else None


def _delete_other_shards(images: Location, shards: set[str]) -> None:
    """An interrupted run over a source that has changed since, or an update, leaves shards that hold old files."""
    for file in images.list_files():
        if file.path not in shards:
            (images / file.path).delete()
