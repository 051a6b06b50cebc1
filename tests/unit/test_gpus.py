"""GPUs that are asked for and are not there."""

import numpy as np
import pytest
import tensorflow as tf

from lib.config.fitting import TrainConfig
from lib.errors import SettingsError, TissueError
from lib.models.spec import parse_spec
from lib.runtime.gpus import processes_on, require_gpus, require_visible_gpu
from lib.training.fit.synchronous import add_pairwise
from lib.training.trainer import check_fit
from lib.training.workers.failures import memory_named
from lib.training.workers.peers import Peers


def settings(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"dataset": "/d", "output": "/o", "use_gpu": True} | changes)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})


def test_a_machine_without_a_gpu_is_refused_only_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0})
    require_gpus(settings(use_gpu=False))
    with pytest.raises(SettingsError, match="Ray sees no GPU on this machine; leave it out, or use a cluster"):
        require_gpus(settings())


@pytest.mark.usefixtures("two_gpus")
def test_more_workers_than_gpus_are_refused_by_both_numbers() -> None:
    require_gpus(settings(), 2)
    require_gpus(settings(gpus_per_worker=0.5), 4)
    with pytest.raises(SettingsError, match="3 processes with 1 GPU each do not fit on the 2 of this machine"):
        require_gpus(settings(), 3)
    with pytest.raises(SettingsError, match=r"5 processes with 0\.5 GPU each do not fit on the 2 of this machine"):
        require_gpus(settings(gpus_per_worker=0.5), 5)
    with pytest.raises(SettingsError, match=r"3 processes with 0\.6 GPU"):  # 1.8 GPUs, but not whole ones
        require_gpus(settings(gpus_per_worker=0.6), 3)


def test_no_process_takes_parts_of_two_gpus() -> None:
    assert [processes_on(4, share) for share in (1, 0.75, 0.5, 0.1)] == [4, 4, 8, 40]
    assert [processes_on(gpus, 0.5) for gpus in (0, 0.25, 0.5, 1.75)] == [0, 0, 1, 3]


def test_two_training_workers_are_not_put_on_one_gpu() -> None:
    cnn = [parse_spec("cnn")]
    check_fit(settings(num_workers="1:2"), cnn)
    check_fit(settings(num_workers=2, gpus_per_worker=0.6), cnn)
    check_fit(settings(num_workers=1, gpus_per_worker=0.5), cnn)  # what predicts may share
    check_fit(settings(num_workers=2, gpus_per_worker=0.5, use_gpu=False), cnn)
    with pytest.raises(SettingsError, match=r"--gpus-per-worker 0\.5: two training workers may be put on one GPU"):
        check_fit(settings(num_workers="1:2", gpus_per_worker=0.5), cnn)


def collectives(peers: Peers, kind: type = np.float32) -> list[tuple[bytes, str, int]]:
    """The hint, device and group size of each collective that sums what a worker has, in order."""
    sums = tf.function(lambda: peers.all_reduce([tf.zeros([2], kind), tf.zeros([], kind)], 7))
    found = sums.get_concrete_function().graph.get_operations()
    reductions = [operation for operation in found if operation.type == "CollectiveReduceV2"]
    sizes = [int(tf.get_static_value(operation.inputs[1])) for operation in reductions]
    hints = [operation.get_attr("communication_hint") for operation in reductions]
    return list(zip(hints, [operation.device for operation in reductions], sizes, strict=True))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nccl_sums_between_gpus_and_a_ring_between_cpus(kind: type) -> None:
    ((hint, device, size),) = collectives(Peers(1, 2, on_gpus=True), kind)
    assert (hint, device[-5:], size) == (b"nccl", "GPU:0", 2)
    assert collectives(Peers(2, 3), kind) == [(b"ring", "", 3)]
    assert collectives(Peers(2, 4), kind) == [(b"ring", "", 2)] * 2
    assert collectives(Peers(0, 1), kind) == []


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_workers_meet_two_by_two_and_as_the_parts_of_a_batch_are_added(world_size: int) -> None:
    random = np.random.default_rng(3)
    values = [[tf.constant(random.normal(size=100), tf.float32)] for _ in range(world_size)]
    rounds = [meetings(rank, world_size) for rank in range(world_size)]
    keys = [key for of_rank in rounds for key in of_rank]
    assert all(keys.count(key) == 2 for key in keys)
    totals = [value for (value,) in values]
    for keys_of_round in zip(*rounds, strict=True):
        partners = [[rank for rank, other in enumerate(keys_of_round) if other == key] for key in keys_of_round]
        totals = [totals[low] + totals[high] for low, high in partners]
    ((expected,),) = [add_pairwise(values)]
    for total in totals:
        np.testing.assert_array_equal(total, expected)


def meetings(rank: int, world_size: int) -> list[int]:
    """The keys of the groups in which a worker sums, in order."""
    sums = tf.function(lambda: Peers(rank, world_size).all_reduce([tf.zeros([2])], 7))
    found = sums.get_concrete_function().graph.get_operations()
    reductions = [operation for operation in found if operation.type == "CollectiveReduceV2"]
    return [int(tf.get_static_value(operation.inputs[2])) for operation in reductions]


def test_a_cluster_may_still_start_machines_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    monkeypatch.setattr("ray.cluster_resources", lambda: pytest.fail("the cluster is counted"))
    require_gpus(settings(), 8)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is one")
def test_a_gpu_that_tensorflow_does_not_see_is_not_replaced_by_the_cpu() -> None:
    require_visible_gpu(settings(use_gpu=False))
    with pytest.raises(SettingsError, match=r"TensorFlow sees no GPU here: .* requirements-gpu\.lock"):
        require_visible_gpu(settings())


def test_a_step_without_memory_names_the_settings_that_take_less() -> None:
    with pytest.raises(TissueError, match=r"no memory left .* lower --batch-size or --image-size"), memory_named():
        tf.zeros([2**20, 2**20])  # 4 TiB
    with pytest.raises(ValueError, match="another fault"), memory_named():
        raise ValueError("another fault")


def test_a_gpu_gets_a_batch_as_a_whole_unless_parts_are_asked_for() -> None:
    assert settings(use_gpu=False).parts_of_batch == 4
    assert settings().parts_of_batch == 1
    assert settings(gradient_parts=2).parts_of_batch == 2
