"""Folders of tables: a unit of work is one part, and its part says that it is done."""


def part_name(first: int) -> str:
    """The file that holds what is made of a unit: named by its first position, so that it is the same every time."""
    return f"part-{first:09d}.parquet"
