"""How busy a GPU is and how much of its memory is taken, as NVIDIA's management library (NVML) tells.

Source: NVML API Reference Guide, `nvmlDeviceGetUtilizationRates` and `nvmlDeviceGetMemoryInfo`; its Python side is the
package `nvidia-ml-py`, of the extra `gpu`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib.errors import TissueError, one_line


class NoGpuMeterError(TissueError):
    """The use of a GPU cannot be read; the text says why."""


@dataclass(frozen=True)
class GpuUse:
    """What one GPU did in its last sample period, of 1/6 to 1 s.

    Attributes:
        utilisation: Share of the time in which it ran any kernel, in [0, 1]; None where it does not tell (as by MIG).
        memory_bytes: Taken by all processes, with what TensorFlow keeps for later; None where it does not tell.
    """

    utilisation: float | None
    memory_bytes: int | None

    def __str__(self) -> str:
        busy = [] if self.utilisation is None else [f"{100 * self.utilisation:.0f} % busy"]
        taken = [] if self.memory_bytes is None else [f"{self.memory_bytes / 2**30:.1f} GiB taken"]
        return "GPU " + ", ".join(busy + taken) if busy + taken else ""


class GpuMeter:
    """Reads one GPU."""

    def __init__(self, library: Any, handle: Any) -> None:
        """Read a GPU.

        Args:
            library: The module `pynvml`, started.
            handle: The GPU, as the library calls it.
        """
        self._library, self._handle = library, handle

    def read(self) -> GpuUse:
        """What it does now."""
        rates = self._asked(self._library.nvmlDeviceGetUtilizationRates)
        memory = self._asked(self._library.nvmlDeviceGetMemoryInfo)
        return GpuUse(None if rates is None else rates.gpu / 100, None if memory is None else int(memory.used))

    def _asked(self, question: Callable[[Any], Any]) -> Any:
        try:
            return question(self._handle)
        except self._library.NVMLError:  # a part of a GPU tells less than a whole one, and a lost one nothing
            return None


def open_gpu_meter(library: Any = None) -> GpuMeter:
    """The meter of the first GPU that this process may use.

    Args:
        library: The module `pynvml`; imported unless given.

    Raises:
        NoGpuMeterError: If it is not installed, or does not know the GPU.
    """
    library = library or _library()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    try:
        library.nvmlInit()
        if named.isdigit():
            return GpuMeter(library, library.nvmlDeviceGetHandleByIndex(int(named)))
        return GpuMeter(library, library.nvmlDeviceGetHandleByUUID(named))
    except library.NVMLError as error:
        raise NoGpuMeterError(f"NVML does not know the GPU {named!r} ({one_line(error)})") from error


def _library() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise NoGpuMeterError("nvidia-ml-py (the extra `gpu`) is not installed") from error
    return pynvml
