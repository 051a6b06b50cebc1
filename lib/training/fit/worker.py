"""How a training worker starts: its examples load while TensorFlow is imported; then `lib.training.fit.loop` trains.

The driver imports this module, so nothing here imports Keras before a worker runs.
"""

from collections.abc import Callable

import ray.train

from lib.folders.model import CHECKPOINTS, FitRecord
from lib.runtime.allocator import keep_freed_memory
from lib.runtime.gpus import require_visible_gpu
from lib.runtime.logs import join_stage
from lib.runtime.ray_data import prepare_context
from lib.training.fit.checkpoint import CheckpointFolder
from lib.training.fit.loader import ExampleLoader
from lib.training.fit.plan import plan_phases, unfinished_phases
from lib.training.workers.failures import lost_gpu_named, lost_peers_named, memory_named
from lib.training.workers.peers import Peers, TrainTask
from lib.training.workers.preemption import checkpoint_wanted
from lib.training.workers.watchdog import Heartbeat


def train_on_worker(loop_config: dict[str, TrainTask]) -> FitRecord:
    """Train on this worker, in step with the others, from the newest checkpoint if there is one.

    Args:
        loop_config: The `task`, in the dictionary that Ray Train insists on.

    Returns:
        The same on every worker.

    Raises:
        TooManyBadImagesError: If more images were refused than allowed.
        DataError: If a class has no usable training image, or images are to be kept in memory and do not fit.
        DivergedError: If the loss never was a number.
        LostPeerError: If another worker is gone.
        LostGpuError: If the GPU of this worker failed.
    """
    join_stage("train")
    task, context = loop_config["task"], ray.train.get_context()
    prepare_context(task.config.verbose)
    peers = Peers(context.get_world_rank(), context.get_world_size(), on_gpus=task.config.use_gpu)
    with Heartbeat(task.reporter, peers.rank) as heartbeat, lost_peers_named(), lost_gpu_named(), memory_named():
        return load_and_train(task, peers, heartbeat, checkpoint_wanted)


def train_alone(loop_config: dict[str, TrainTask]) -> FitRecord:
    """Train as the only worker, inside a trial of Ray Tune, where Ray Train tells nothing of the workers.

    Args:
        loop_config: The `task`; its settings state `cache_gib`, since it is not known how many share this machine.

    Raises:
        TissueError: See `train_on_worker`.
    """
    task = loop_config["task"]
    prepare_context(task.config.verbose)
    with Heartbeat(task.reporter, 0) as heartbeat, lost_gpu_named(), memory_named():
        return load_and_train(task, Peers(0, 1), heartbeat)


def load_and_train(
    task: TrainTask, peers: Peers, heartbeat: Heartbeat, is_leaving: Callable[[], bool] = lambda: False
) -> FitRecord:
    """Begin to load the examples of the first phase that is not finished, and train.

    Args:
        task: What to train.
        peers: The workers.
        is_leaving: Tells whether this worker is about to be ended; without Ray Train nobody ends it with notice.
    """
    with CheckpointFolder(task.output / CHECKPOINTS) as checkpoints, ExampleLoader(task, peers, heartbeat) as loader:
        newest = checkpoints.newest()
        phases = plan_phases(task.spec, task.config)
        first = next(iter(unfinished_phases(phases, newest)), phases[-1])  # the end of a training needs examples too
        loader.begin(first.on_features)
        from lib.training.fit.loop import TrainingLoop  # imports TensorFlow, which takes seconds

        require_visible_gpu(task.config)
        keep_freed_memory()
        return TrainingLoop(task, peers, heartbeat, loader, checkpoints, is_leaving).train(phases, newest)
