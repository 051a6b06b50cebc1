"""How the C library of a process that trains or predicts deals with the memory that TensorFlow frees."""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MOST_MAPPINGS = -1, -2, -4
"""The names of `mallopt` in malloc.h."""
KEEP_ALL = -1
STEP_BYTES = 64 << 20
"""By how much a process grows at least."""


def keep_freed_memory() -> None:
    """Have this process keep the memory that its arrays free, for the next ones.

    The activations of a step are freed and taken again in each step. glibc hands every array of 32 MiB and more back to
    the system at once, and gets it again page by page, each of them cleared. The process stays as large as it once was.
    Other C libraries have no such option, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, value in ((MOST_MAPPINGS, 0), (TRIM_THRESHOLD, KEEP_ALL), (TOP_PAD, STEP_BYTES)):
        mallopt(name, value)
