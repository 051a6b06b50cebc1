"""GPUs that are asked for and are not there."""

import pytest
import tensorflow as tf

from lib.config.fitting import TrainConfig
from lib.errors import SettingsError, TissueError
from lib.runtime.gpus import require_gpus, require_visible_gpu
from lib.training.workers.failures import memory_named


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
    with pytest.raises(SettingsError, match="3 processes with 1 GPU each take 3, and this machine has 2"):
        require_gpus(settings(), 3)
    with pytest.raises(SettingsError, match=r"5 processes with 0\.5 GPU each take 2\.5, and this machine has 2"):
        require_gpus(settings(gpus_per_worker=0.5), 5)


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
