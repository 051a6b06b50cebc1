"""The text of CSV tables as programs and spreadsheets write them: UTF-8 or UTF-16, and no other kind of file."""

NO_TEXT = {b"PK\x03\x04": "an Excel workbook", b"\xd0\xcf\x11\xe0": "an old Excel workbook", b"PAR1": "a Parquet file"}
"""How files begin that are taken for a CSV table now and then."""
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
SEPARATORS = (",", ";", "\t")
REMEDY = "in Excel, save it as `CSV UTF-8 (comma delimited)`"


class WrongTable(Exception):  # noqa: N818 - becomes a SettingsError that names the file
    """What is wrong with a table, to follow its name in a message."""


def table_text(data: bytes) -> str:
    """The text of a table, without its byte order mark.

    Raises:
        WrongTable: If it is another kind of file, or in another encoding; naming the line.
    """
    for beginning, kind in NO_TEXT.items():
        if data.startswith(beginning):
            raise WrongTable(f" is {kind}, not a CSV table; {REMEDY}")
    encoding = BYTE_ORDER_MARKS.get(data[:2], "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise WrongTable(f": it begins as UTF-16 and ends in the middle of a letter; {REMEDY}") from error
        number = data.count(b"\n", 0, error.start)
        told = data.split(b"\n")[number].decode("cp1252", "replace").strip()
        raise WrongTable(
            f", line {number + 1}: not UTF-8 (0x{data[error.start]:02X} is no letter there); "
            f"in Windows-1252 it would be {told[:80]!r}; {REMEDY}"
        ) from error
