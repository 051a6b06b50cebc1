"""The cluster's description as a check without a cloud sees it: fit as it is, and every planted mistake is named."""

import copy
import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import configure
from cluster.check import Description, find_problems
from cluster.compute_schema import instance_problems

ROOT = Path(__file__).parents[2]
Content = dict[str, Any]


@pytest.fixture(scope="module")
def description() -> Description:
    return Description.read()


def test_the_description_is_fit_to_be_used(description: Description) -> None:
    assert find_problems(description) == []


def config(content: Content, pool: str) -> Content:
    return content["available_node_types"][pool]["node_config"]  # type: ignore[no-any-return]


def replace_command(content: Content, name: str, old: str, new: str) -> None:
    assert any(old in command for command in content[name])
    content[name] = [command.replace(old, new) for command in content[name]]


MISTAKES: dict[str, tuple[Callable[[Content], object], str]] = {
    "a field that Ray does not know": (lambda c: c.update(idle_minutes=5), "Ray refuses it"),
    "a head type that is not there": (lambda c: c.update(head_node_type="main"), "`head_node_type` must be"),
    "a misspelled field": (lambda c: config(c, "convert").update(machinetype="n2"), "machinetype is not a field"),
    "scheduling as a list": (
        lambda c: config(c, "train").update(scheduling=[{"preemptible": True}]),
        "expected object",
    ),
    "an unknown provisioning model": (
        lambda c: config(c, "train")["scheduling"].update(provisioningModel="CHEAP"),
        "'CHEAP', expected one of",
    ),
    "no project": (lambda c: c["provider"].pop("project_id"), "project_id is None"),
    "a zone of another region": (lambda c: c["provider"].update(region="us-central1"), "is not in region us-central1"),
    "stopped machines are kept": (lambda c: c["provider"].pop("cache_stopped_nodes"), "cache_stopped_nodes"),
    "an image of another version": (
        lambda c: c["docker"].update(image=c["docker"]["image"].replace(":", ":9")),
        "head runs image",
    ),
    "training in the image without CUDA": (
        lambda c: c["available_node_types"]["train"].pop("docker"),
        "expected one that ends with /gpu",
    ),
    "set-up left to Ray": (lambda c: c.pop("head_setup_commands"), "head_setup_commands installs packages"),
    "work on the head": (lambda c: c["available_node_types"]["head"].update(resources={"CPU": 4}), "the head has"),
    "work on the head by its start": (
        lambda c: replace_command(c, "head_start_ray_commands", "--num-cpus=0", ""),
        "lacks --num-cpus=0",
    ),
    "a GPU on the head": (lambda c: config(c, "head").update(machineType="g2-standard-4"), "the head is a g2"),
    "a head that can be taken away": (
        lambda c: config(c, "head")["scheduling"].update(provisioningModel="SPOT"),
        "the head is a spot machine",
    ),
    "a pool that never ends": (lambda c: c["available_node_types"]["train"].update(min_workers=1), "min_workers 1"),
    "bounds that do not add up": (lambda c: c.update(max_workers=10), "add up to 20"),
    "idle machines stay": (lambda c: c.update(idle_timeout_minutes=240), "idle_timeout_minutes is 240"),
    "more CPUs than the machine has": (
        lambda c: c["available_node_types"]["convert"]["resources"].update(CPU=32),
        "has 16 CPU and 0 GPU",
    ),
    "a GPU without its machine": (lambda c: config(c, "train").update(machineType="n2-standard-8"), "8 CPU and 0 GPU"),
    "a GPU without a label": (lambda c: c["available_node_types"]["train"].pop("labels"), "not the label"),
    "a GPU that its container does not see": (
        lambda c: c["available_node_types"]["train"]["docker"].pop("worker_run_options"),
        "not started with --gpus all",
    ),
    "spot machines that are stopped": (
        lambda c: config(c, "convert")["scheduling"].update(instanceTerminationAction="STOP"),
        "instanceTerminationAction is 'STOP'",
    ),
    "a GPU on demand that would move": (
        lambda c: config(c, "train").update(scheduling={"provisioningModel": "STANDARD"}),
        "onHostMaintenance is not TERMINATE",
    ),
    "nobody watches for the notice": (lambda c: c["worker_start_ray_commands"].pop(), "without drain_on_preemption"),
    "no disk": (lambda c: config(c, "head").pop("disks"), "keeps its disk"),
    "no machine type": (lambda c: config(c, "convert").pop("machineType"), "convert is a ''"),
    "a disk that is left": (lambda c: config(c, "head")["disks"][0].pop("autoDelete"), "keeps its disk"),
    "a small disk": (
        lambda c: config(c, "head")["disks"][0]["initializeParams"].update(diskSizeGb=30),
        "diskSizeGb below 60",
    ),
    "an image without patches": (
        lambda c: config(c, "head")["disks"][0]["initializeParams"].update(
            sourceImage="projects/deeplearning-platform-release/global/images/family/common-cpu"
        ),
        "boots from",
    ),
    "no rights": (lambda c: config(c, "convert").pop("serviceAccounts"), "convert runs as []"),
    "workers with the head's rights": (
        lambda c: config(c, "convert").update(serviceAccounts=config(c, "head")["serviceAccounts"]),
        "expected ['tissue-worker@",
    ),
    "a dashboard for everybody": (
        lambda c: replace_command(c, "head_start_ray_commands", "127.0.0.1", "0.0.0.0"),
        "lacks --dashboard-host",
    ),
    "workers without a token": (
        lambda c: replace_command(c, "worker_start_ray_commands", "RAY_AUTH_MODE=token", ""),
        "lacks RAY_AUTH_MODE=token",
    ),
    "a token that stays at home": (lambda c: c.pop("file_mounts"), "file_mounts does not bring"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named(name: str, description: Description) -> None:
    plant, message = MISTAKES[name]
    # Through YAML's aliases the pools share their parts: a mistake in one is not to be one in the other.
    content = copy.deepcopy(description.cluster)
    content["available_node_types"] = {k: copy.deepcopy(v) for k, v in content["available_node_types"].items()}
    plant(content)
    problems = find_problems(dataclasses.replace(description, cluster=content))
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("field", "old", "new", "message"),
    [
        ("dockerfile", "ray:2.60.0-py311-cpu AS gpu", "ray:2.59.0-py311-cpu AS gpu", "cluster/Dockerfile builds"),
        ("dockerfile", "cluster/drain_on_preemption.py", "cluster/check.py", "into both images"),
        ("lock", "\nray==2.60.0", "\nray==2.61.0", "cluster/Dockerfile builds"),
        ("project", 'version = "0.1.0"', 'version = "0.2.0"', "ends with /cpu:0.2.0"),
    ],
)
def test_versions_that_differ_are_named(field: str, old: str, new: str, message: str, description: Description) -> None:
    text = getattr(description, field)
    assert old in text
    changed = dataclasses.replace(description, **{field: text.replace(old, new, 1)})
    assert any(message in problem for problem in find_problems(changed))


def test_both_pools_are_spot_and_what_stands_in_for_them_on_demand_is_fit_too(description: Description) -> None:
    content = copy.deepcopy(description.cluster)
    text = (ROOT / "ray-cluster.yaml").read_text()
    on_demand = re.search(r"#   scheduling: &market \{ (.*) \}", text)
    assert on_demand is not None
    for pool in ("convert", "train"):
        scheduling = config(content, pool)["scheduling"]
        assert scheduling["provisioningModel"] == "SPOT"
        config(content, pool)["scheduling"] = yaml.safe_load(f"{{{on_demand[1]}}}")
    assert find_problems(dataclasses.replace(description, cluster=content)) == []


def test_numbers_of_64_bits_may_be_digits_and_nothing_else() -> None:
    def disk(size: object) -> Content:
        return {"disks": [{"initializeParams": {"diskSizeGb": size}}]}

    assert list(instance_problems(disk(100))) == list(instance_problems(disk("100"))) == []
    place = "node_config.disks[0].initializeParams.diskSizeGb"
    assert list(instance_problems(disk("100 GB"))) == [f"{place} is '100 GB', expected a whole number"]
    assert list(instance_problems(disk(True))) == [f"{place} is True, expected string"]


SETTINGS = (
    "PROJECT=heart-lab\nZONE=us-central1-b\nSOURCE_BUCKET=slides\nRESULTS_BUCKET=out\nREDIS_ADDRESS=10.1.2.3:6379"
)


def test_the_files_agree_with_the_one_place_to_edit() -> None:
    assert configure.main(["--check"]) == 0


def test_one_place_to_edit_changes_every_file_and_nothing_of_the_old_stays() -> None:
    old = configure.read_settings(configure.SETTINGS.read_text())
    settings = configure.read_settings(SETTINGS)
    for file in configure.described_files():
        text = configure.apply_settings(file.read_text(), settings)
        assert "heart-lab" in text
        assert not re.search("|".join([*map(re.escape, old.values()), "europe-west4"]), text)
        assert configure.apply_settings(text, old) == file.read_text()


def test_an_edited_description_is_as_fit_as_before(description: Description) -> None:
    text = configure.apply_settings((ROOT / "ray-cluster.yaml").read_text(), configure.read_settings(SETTINGS))
    assert find_problems(dataclasses.replace(description, cluster=yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("heart-lab", "Heart_Lab", "PROJECT=Heart_Lab does not look like one"),
        ("us-central1-b", "us-central1", "ZONE=us-central1 does not look like one"),
        ("ZONE=us-central1-b\n", "", "expected \\['PROJECT'"),
        ("PROJECT", "PROJEKT", "'PROJEKT'"),
    ],
)
def test_a_wrong_setting_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure.read_settings(SETTINGS.replace(old, new))


def test_the_lock_files_name_no_registry() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert not re.search(r"://|--(extra-)?index-url|--find-links", lock.read_text())


def test_the_images_get_the_files_that_they_copy() -> None:
    copied = re.findall(r"^COPY --chown=ray (\S+)", (ROOT / "cluster/Dockerfile").read_text(), re.MULTILINE)
    sent = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"]
    assert set(copied) == set(sent)
    assert all((ROOT / name).is_file() for name in copied)


@pytest.mark.parametrize("script", sorted((ROOT / "cluster").glob("*.sh")), ids=lambda path: path.name)
def test_a_shell_script_is_well_formed(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def test_the_commands_on_both_pages_name_the_images_accounts_and_machines_in_use(description: Description) -> None:
    text = "".join((ROOT / "cluster" / page).read_text() for page in ("README.md", "kuberay/README.md"))
    created = set(re.findall(r"service-accounts create (\S+)", text)) - {"tissue-node"}
    emails = [node["node_config"]["serviceAccounts"][0]["email"] for node in description.types.values()]
    assert created == {email.split("@")[0] for email in emails}
    version = re.search(r'^version = "(.+)"', description.project, re.MULTILINE)
    assert version is not None
    assert set(re.findall(r"/tissue/\$target:([\d.]+)", text)) == {version[1]}
    for node in description.pools.values():
        assert f"--machine-type={node['node_config']['machineType']} --spot" in text
        assert f"--max-nodes={node['max_workers']} " in text


def test_the_commands_for_the_nodes_are_well_formed(description: Description) -> None:
    names = [name for name in description.cluster if name.endswith("_commands")]
    assert len(names) == 6
    for command in [command for name in names for command in description.cluster[name]]:
        subprocess.run(["bash", "-n", "-c", f"export RAY_HEAD_IP=10.0.0.1; {command}"], check=True)
