"""The feature folder: what a frozen base makes of each image, kept as Parquet."""

import pyarrow as pa

FEATURE_SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("checksum", pa.string()),
        pa.field("features", pa.list_(pa.float32())),  # as many for every image; null if refused
        pa.field("reason", pa.string()),  # null unless refused
        pa.field("detail", pa.string()),
    ]
)
WIDTH_KEY = b"width"
"""In the footer of each part: how many features an image has, known even where all of them were refused."""
