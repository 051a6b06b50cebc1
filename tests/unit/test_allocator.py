"""A process that trains or predicts takes its memory from the system once."""

import subprocess
import sys

from tests.fakes.jobs import ROOT

PROGRAM = """
import ctypes, resource, sys
from lib.runtime.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(10):
    array = libc.malloc(64 << 20)
    ctypes.memset(array, 1, 64 << 20)
    libc.free(array)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def pages_taken(how: str) -> int:
    """The pages that a process gets from the system while it fills 64 MiB ten times."""
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True, cwd=ROOT).stdout)


def test_arrays_of_a_step_take_the_memory_that_those_of_the_step_before_have_freed() -> None:
    assert 5 * pages_taken("keep") < pages_taken("give back")
