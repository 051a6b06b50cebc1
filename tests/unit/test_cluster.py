"""The cluster description, as far as it can be checked without a cloud."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "ray-cluster.yaml").read_text())
    return content


def test_ray_accepts_the_description(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_the_head_runs_no_work_and_the_pools_begin_at_zero(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    assert {name: node["min_workers"] for name, node in types.items()} == dict.fromkeys(types, 0)
    assert sum(node["max_workers"] for node in types.values()) == cluster["max_workers"]


def test_gpus_are_only_where_models_are_trained(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert [name for name, node in types.items() if "GPU" in node["resources"]] == ["train"]
    assert types["train"]["node_config"]["scheduling"]["onHostMaintenance"] == "TERMINATE"


def test_every_node_has_a_service_account(cluster: dict[str, Any]) -> None:
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["serviceAccounts"][0]["email"].endswith(".iam.gserviceaccount.com")


def test_stopped_machines_are_not_kept_and_the_jobs_api_stays_on_loopback(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["cache_stopped_nodes"] is False
    [start] = [command for command in cluster["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in start


def test_the_image_has_the_ray_of_the_lock_file() -> None:
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    bases = re.findall(r"^FROM rayproject/ray:(\S+?)-py311", (ROOT / "cluster/Dockerfile").read_text(), re.MULTILINE)
    assert set(bases) == {locked.group(1)}


def test_the_lock_files_name_no_registry() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert not re.search(r"://|--(extra-)?index-url|--find-links", lock.read_text())


def test_what_a_job_uploads_is_small() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".rayignore").read_text().splitlines() if line.endswith("/")]
    sizes = {
        Path(folder, name): Path(folder, name).stat().st_size
        for top in ROOT.iterdir()
        if top.name not in ignored
        for folder, _, names in ([(str(ROOT), [], [top.name])] if top.is_file() else os.walk(top))
        for name in names
    }
    assert sum(sizes.values()) < 5 * 2**20
    assert {"lib", "jobs"} <= {path.relative_to(ROOT).parts[0] for path in sizes}
