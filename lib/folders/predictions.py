"""What a prediction file says in its footer: the verdict on each image of its unit, and how many are doubtful.

So predictions and account are one object, written in one step, and the account is read without the predictions.
"""

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lib.storage.location import Location
from lib.storage.tables import footer

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("checksum", pa.string()),
        pa.field("reason", pa.string()),  # null unless refused
        pa.field("detail", pa.string()),
    ]
)
VERDICTS_KEY, COUNTS_KEY = b"verdicts", b"counts"
COUNTED = ("unfamiliar", "abstained")
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Findings:
    """What is known of all images that went through `predict_units`.

    Attributes:
        verdicts: On each image, refused ones included (`VERDICT_SCHEMA`).
        unfamiliar: How many are unfamiliar; None if the model has no reference.
        abstained: For how many the model abstains; None for predictions that do not say so.
    """

    verdicts: pa.Table
    unfamiliar: int | None
    abstained: int | None


def with_footer(predictions: pa.Table, decoded: pa.Table) -> pa.Table:
    """The predictions of a unit, with what `read_findings` reads.

    Args:
        predictions: Of the images that were not refused.
        decoded: The unit (`DECODED_SCHEMA`).
    """
    verdicts = decoded.select(VERDICT_SCHEMA.names).to_pylist()
    counts = {name: _true_count(predictions, name) for name in COUNTED}
    return predictions.replace_schema_metadata({VERDICTS_KEY: json.dumps(verdicts), COUNTS_KEY: json.dumps(counts)})


def _true_count(predictions: pa.Table, name: str) -> int | None:
    if name not in predictions.column_names or predictions[name].null_count:
        return None
    return int(pc.sum(predictions[name], min_count=0).as_py())


def read_findings(output: Location) -> Findings:
    """The findings below a folder.

    Raises:
        StorageError: If a file cannot be read as Parquet.
    """
    verdicts, counts = [VERDICT_SCHEMA.empty_table()], []
    for file in (output / PREDICTIONS).list_files():
        found = footer(output / PREDICTIONS / file.path)
        verdicts.append(pa.Table.from_pylist(json.loads(found[VERDICTS_KEY]), schema=VERDICT_SCHEMA))
        counts.append(json.loads(found[COUNTS_KEY]))
    return Findings(pa.concat_tables(verdicts), **{name: _total(counts, name) for name in COUNTED})


def _total(counts: list[dict[str, int | None]], name: str) -> int | None:
    known = [number for count in counts if (number := count[name]) is not None]
    return sum(known) if len(known) == len(counts) else None
