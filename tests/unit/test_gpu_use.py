"""The use of a GPU, read through a stand-in for NVIDIA's library."""

import sys
from types import SimpleNamespace

import pytest

from lib.runtime.gpu_use import GpuUse, NoGpuMeterError, open_gpu_meter


class NVMLError(Exception):
    pass


class Library:
    """Two GPUs as `pynvml` shows them, of which the second is the fourth part of one (MIG)."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        self.started = False

    def nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's name
        self.started = True

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index > 1 or not self.started:
            raise NVMLError("Invalid Argument")
        return ("GPU-whole", "MIG-part")[index]

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:  # noqa: N802
        if name not in {"GPU-whole", "MIG-part"}:
            raise NVMLError("Not Found")
        return name

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        if handle == "MIG-part":
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=37, memory=12)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=80 * 2**30, free=0, used=3 * 2**30 if handle == "GPU-whole" else 2**30)


@pytest.mark.parametrize("visible", [None, "0", "0,1", "GPU-whole"])
def test_the_first_gpu_that_a_process_may_use_is_read(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    use = open_gpu_meter(Library()).read()
    assert use == GpuUse(0.37, 3 * 2**30)
    assert str(use) == "GPU 37 % busy, 3.0 GiB taken"


@pytest.mark.parametrize("visible", ["1", "MIG-part"])
def test_a_part_of_a_gpu_tells_its_memory_alone(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    use = open_gpu_meter(Library()).read()
    assert use == GpuUse(None, 2**30)
    assert str(use) == "GPU 1.0 GiB taken"


@pytest.mark.parametrize(("visible", "reason"), [("7", "Invalid Argument"), ("GPU-other", "Not Found"), ("", "Not F")])
def test_a_gpu_that_is_not_known_is_named(visible: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NoGpuMeterError, match=f"NVML does not know the GPU '{visible}' \\({reason}"):
        open_gpu_meter(Library())


def test_without_the_package_the_extra_that_has_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoGpuMeterError, match=r"nvidia-ml-py \(the extra `gpu`\) is not installed"):
        open_gpu_meter()
