"""A cluster that begins with nothing: nodes come for the work that asks for them, and go when it is done.

The nodes are processes of this machine, which Ray's own provider of fake nodes starts and ends.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.jobs import run_job, wait_for
from tests.fakes.ray_head import RayHead, free_port, jobs_api, ray_head
from tests.fakes.sources import write_source

pytestmark = pytest.mark.slow

HEAD_ID = "f" * 51 + "00000"
IDLE_MINUTES = 0.1
STORE = 200_000_000
GROUPS: dict[str, dict[str, Any]] = {
    "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0},
    "convert": {"resources": {"CPU": 1, "object_store_memory": STORE}, "min_workers": 0, "max_workers": 2},
    "train": {
        "resources": {"CPU": 1, "GPU": 1, "object_store_memory": STORE},
        "min_workers": 0,
        "max_workers": 1,
        "labels": {"ray.io/accelerator-type": "L4"},
    },
}
"""As those of ray-cluster.yaml."""
NOTHING: tuple[str, ...] = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
NOTHING += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
NOTHING += ("rsync_filter",)


def description(address: str) -> dict[str, Any]:
    """What the autoscaler is told of a cluster whose head is at an address."""
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "gcs_address": address,
        "head_node_id": HEAD_ID,
    }
    return {
        "cluster_name": "fake",
        "max_workers": 3,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "head_node_type": "ray.head.default",
        "available_node_types": {name: group | {"node_config": {}} for name, group in GROUPS.items()},
        "provider": provider,
        "file_mounts_sync_continuously": False,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in NOTHING},
    }


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    port, file = free_port(), tmp_path_factory.mktemp("autoscaling") / "cluster.json"
    file.write_text(json.dumps(description(f"127.0.0.1:{port}")))
    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    with ray_head(f"--autoscaling-config={file}", port=port, env=environment) as head:
        yield head


def kinds(head: RayHead) -> list[str]:
    """The nodes beside the head that are up, by what they have."""
    answer = jobs_api(head, "/api/v0/nodes?limit=100", head.token)[1]
    nodes = [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
    held = [node["resources_total"] for node in nodes if not node["is_head_node"]]
    return sorted("train" if resources.get("GPU") else "convert" for resources in held)


@contextmanager
def watched(head: RayHead) -> Iterator[list[list[str]]]:
    """Every different set of nodes that was up while the context lasted, in order."""
    seen: list[list[str]] = [kinds(head)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.3):
            if (now := kinds(head)) != seen[-1]:
                seen.append(now)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@pytest.mark.timeout(420)
def test_converting_brings_up_cpu_nodes_alone_and_gives_them_back(head: RayHead, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 6, "lung": 6})
    assert kinds(head) == []
    with watched(head) as seen:
        flags = ("--source", source, "--output", tmp_path / "dataset", "--image-size", 32)
        result = head.submit("convert", *flags, timeout=200)
        assert result.exit_code == 0, result.stdout[-2000:] + result.stderr
        wait_for(lambda: kinds(head) == [], "the nodes are given back", 90)
        time.sleep(1)  # so that the watch has seen it
    assert (tmp_path / "dataset" / "dataset.json").exists()
    assert ["convert"] in seen or ["convert", "convert"] in seen
    assert not [nodes for nodes in seen if "train" in nodes]
    assert seen[0] == seen[-1] == []


@pytest.mark.timeout(420)
def test_training_with_a_gpu_brings_up_the_node_that_has_one(head: RayHead, tmp_path: Path) -> None:
    """The GPU is Ray's word alone: TensorFlow finds none there, which is refused rather than trained on the CPU."""
    source = write_source(tmp_path / "source", {"liver": 6, "lung": 6})
    dataset = ("--output", tmp_path / "dataset", "--image-size", 32)
    converted = run_job("convert", "--source", source, *dataset)
    assert converted.exit_code == 0
    with watched(head) as seen:
        flags = ("--dataset", tmp_path / "dataset", "--output", tmp_path / "model", "--image-size", 32, "--epochs", 1)
        result = head.submit("train", *flags, "--use-gpu", "--accelerator-type", "L4", timeout=240)
        assert result.exit_code != 0
        assert "--use-gpu: TensorFlow sees no GPU here" in result.stdout
        wait_for(lambda: kinds(head) == [], "the nodes are given back", 90)
        time.sleep(1)
    assert not (tmp_path / "model" / "model.json").exists()
    assert any("train" in nodes for nodes in seen)
    assert seen[0] == seen[-1] == []
