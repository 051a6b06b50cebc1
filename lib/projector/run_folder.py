"""The files of a Projector's run folder, as bytes."""

import io
import json
import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
from google.protobuf import text_format
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.summary.writer.record_writer import RecordWriter

from lib.projector.points import ProjectorPoints
from lib.projector.sprite import sprite, thumbnail_side

TENSOR_NAME = "embeddings"
EVENTS, VECTORS, METADATA, SPRITE, VIEWS = (
    "events.out.tfevents.0000000000.projector",
    "vectors.tsv",
    "metadata.tsv",
    "sprite.png",
    "views.json",
)
COLUMNS = ("label", "predicted", "correct", "confidence", "path")
"""Of the metadata. The first is the one that points are labelled by when the Projector opens."""
COLOURINGS = ("label", "predicted", "correct", "confidence")
CUSTOM_ENDS = ("XLeft", "XRight", "YUp", "YDown")
"""Of the axes of the Projector's custom projection: it opens no view that leaves them out."""
DECIMALS = 5
"""Of a vector's numbers: lengths stay within 0.0002 of 1, and the file is half as long as with all digits."""


def projector_files(points: ProjectorPoints) -> dict[str, bytes]:
    """The files of a run folder that TensorBoard's Projector shows, by name; the same bytes for the same points.

    An event file, without which TensorBoard does not list the folder; `projector_config.pbtxt`; the vectors at unit
    length as TSV, which TensorBoard reads at about 2 million numbers a second; the metadata; `views.json`, which offers
    the points in the colours of a column with one click, since a config cannot choose a colour; and with thumbnails
    a sprite.

    Raises:
        DataError: If a thumbnail is not an image.

    Source:
        `tensorboard/plugins/projector/projector_plugin.py`; `projector_config.proto`.
    """
    pictures = {} if points.thumbnails is None else {SPRITE: sprite(points.thumbnails)}
    return pictures | {
        EVENTS: _event_file(),
        PROJECTOR_FILENAME: _config(points).encode(),
        VECTORS: _tsv(points.vectors),
        METADATA: _metadata(points).encode(),
        VIEWS: json.dumps([_view(points, column) for column in COLOURINGS]).encode(),
    }


def _event_file() -> bytes:
    """A TensorBoard event file that says nothing but that it is one."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
    return buffer.getvalue()


def _config(points: ProjectorPoints) -> str:
    config = ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name=TENSOR_NAME,
        tensor_shape=points.embeddings.shape,
        tensor_path=VECTORS,
        metadata_path=METADATA,
        bookmarks_path=VIEWS,
    )
    if points.thumbnails is not None:
        embedding.sprite.image_path = SPRITE
        embedding.sprite.single_image_dim.extend([thumbnail_side(len(points.thumbnails))] * 2)
    return str(text_format.MessageToString(config))


def _tsv(vectors: npt.NDArray[np.float32]) -> bytes:
    """Numbers with a tab between, a line a vector."""
    rounded = np.round(vectors.astype(np.float64), DECIMALS) + 0.0  # which turns -0 into 0
    table = pa.table({str(number): np.ascontiguousarray(column) for number, column in enumerate(rounded.T)})
    sink = pa.BufferOutputStream()
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pa.csv.write_csv(table, sink, options)
    return bytes(sink.getvalue().to_pybytes())


def _metadata(points: ProjectorPoints) -> str:
    rows = zip(points.labels, points.predicted, points.confidence, points.paths, strict=True)
    lines = ["\t".join(COLUMNS)] + [
        "\t".join(
            (escape(label), escape(predicted), "yes" if label == predicted else "no", f"{sure:.4f}", escape(path))
        )
        for label, predicted, sure, path in rows
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""A text that stays in its cell of a table: what cannot be printed becomes `\t`, `\n`, `\x1b` and the like."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _view(points: ProjectorPoints, column: str) -> dict[str, object]:
    """A state of the Projector, as its button for bookmarks would save it: principal components in 3D, with colours."""
    return {
        "label": f"coloured by {column}",
        "isSelected": False,
        "dataSetDimensions": list(points.embeddings.shape),
        "selectedProjection": "pca",
        "pcaComponentDimensions": list(range(min(3, points.embeddings.shape[1]))),
        "projections": [],
        "tSNEIteration": 0,
        "tSNEPerplexity": max(5, math.ceil(math.sqrt(len(points.embeddings)) / 4)),  # as without a view
        "tSNELearningRate": 1,  # its decimal logarithm
        "tSNEis3d": True,
        "umapIs3d": True,
        "umapNeighbors": 15,
        "umapMinDist": 0.1,
        "selectedPoints": [],
        "selectedColorOptionName": column,
        "forceCategoricalColoring": False,
        "selectedLabelOption": COLUMNS[0],
        "customSelectedSearchByMetadataOption": COLUMNS[0],
    } | {f"custom{end}{kind}": empty for end in CUSTOM_ENDS for kind, empty in (("Text", ""), ("Regex", False))}
