"""What a table of labels says of images beyond label, split, group and site: columns of any name, kept as text.

Which columns there are is known only when a table is read, and schemas are constants. So one column holds a JSON object
with the cells of an image by the name of their column, without empty ones; it is null where there is none.
"""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

SITE_FIELDS = [
    pa.field("site", pa.string()),  # where the image was made: a hospital, a scanner
    pa.field("columns", pa.string()),
]


def columns_text(cells: Mapping[str, str]) -> str | None:
    """The cells of one image, by the name of their column, as the column `columns` holds them."""
    known = {name: cell for name, cell in cells.items() if cell}
    return json.dumps(known, ensure_ascii=False) if known else None


def read_columns(texts: Sequence[str | None]) -> dict[str, list[str | None]]:
    """The columns that any of some images has, by name in the order in which they come: None where a cell is empty."""
    parsed: dict[str | None, dict[str, str]] = {text: json.loads(text) if text else {} for text in set(texts)}
    names = list(dict.fromkeys(name for text in dict.fromkeys(texts) for name in parsed[text]))
    return {name: [parsed[text].get(name) for text in texts] for name in names}
