"""GPUs that are asked for and are not there: refused at once, before anything waits for them or works without."""

import ctypes

from lib.config.resources import AcceleratorConfig
from lib.errors import SettingsError
from lib.runtime.environment import ray_is_ours
from lib.runtime.package import command

CUDA_DRIVER = "libcuda.so.1"
CAPABILITY_ATTRIBUTES = (75, 76)
"""`CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`."""


def processes_on(gpus: float, share: float) -> int:
    """How many processes that each take a share of one GPU fit on some GPUs; none takes parts of two."""
    whole, rest = divmod(gpus, 1)
    return int(whole) * int(1 / share) + int(rest / share)


def require_gpus(config: AcceleratorConfig, processes: int = 1) -> None:
    """Refuse what a Ray of ours, which is running, would wait for without end. A cluster may still start machines.

    Args:
        config: Whether GPUs are wanted, and how much of one for each process.
        processes: Without which the work does not start.

    Raises:
        SettingsError: If this machine has too few GPUs.
    """
    if not (config.use_gpu and ray_is_ours()):
        return
    import ray

    there = ray.cluster_resources().get("GPU", 0)
    if not there:
        raise SettingsError("--use-gpu: Ray sees no GPU on this machine; leave it out, or use a cluster")
    if processes_on(there, config.gpus_per_worker) < processes:
        raise SettingsError(
            f"--use-gpu: {processes} processes with {config.gpus_per_worker:g} GPU each do not fit on the {there:g} of "
            "this machine; lower --num-workers or --gpus-per-worker"
        )


def refuse_shared_gpus(config: AcceleratorConfig) -> None:
    """Refuse several training workers whose shares of a GPU are so small that two may be put on one.

    Raises:
        SettingsError: Then: NCCL, which adds what the workers have, takes one process a GPU.
    """
    if config.gpus_per_worker <= 1 / 2:
        raise SettingsError(
            f"--gpus-per-worker {config.gpus_per_worker:g}: two training workers may be put on one GPU, and NCCL, "
            "which adds their gradients, refuses that; leave it at 1, or take --num-workers 1"
        )


def visible_gpus() -> int:
    """GPUs that TensorFlow sees in this process."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def require_visible_gpu(config: AcceleratorConfig) -> None:
    """Refuse to work on a CPU, in silence and many times slower, what is to have a GPU.

    Raises:
        SettingsError: If TensorFlow sees none in this process.
    """
    if config.use_gpu and not visible_gpus():
        raise SettingsError(
            "--use-gpu: TensorFlow sees no GPU here: use the GPU image (cluster/Dockerfile), or install "
            f"requirements-gpu.lock; `{command('doctor')} --use-gpu` looks at every machine"
        )


def compute_capability() -> tuple[int, int] | None:
    """The compute capability of the first GPU that this process may use, such as (8, 0); None if there is none.

    It asks the driver of NVIDIA's cards, which takes milliseconds; TensorFlow would be imported first.

    Source: CUDA Driver API, Device Management.
    """
    try:
        driver = ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return None
    device, numbers = ctypes.c_int(), [ctypes.c_int() for _ in CAPABILITY_ATTRIBUTES]
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for number, attribute in zip(numbers, CAPABILITY_ATTRIBUTES, strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
    return numbers[0].value, numbers[1].value
