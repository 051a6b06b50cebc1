"""Check ray-cluster.yaml without a cloud: by Ray, by Google's schema, against the lock file, and by our own rules.

python -m cluster.check   # part of `make check`; names every problem and exits with 1
"""

import copy
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.compute_schema import instance_problems

ROOT = Path(__file__).parents[1]
IMAGE_FAMILIES = {"projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2204-nvidia-580"}
"""In use in November 2026. Older ones (common-cpu, common-cu124-…-py310, anything on Debian) get no more patches."""
L4_OF_MACHINE = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}
"""How many L4 a g2-standard machine has, by its CPUs."""
SPOT = {"instanceTerminationAction": "DELETE", "automaticRestart": False, "onHostMaintenance": "TERMINATE"}
WATCHER = "drain_on_preemption.py"
IDLE_MINUTES = range(1, 16)
SMALLEST_DISK_GB = 60


@dataclass(frozen=True)
class Description:
    """All that the rules look at.

    Attributes:
        cluster: Content of ray-cluster.yaml.
        dockerfile: Text of cluster/Dockerfile.
        lock: Text of requirements.lock.
        project: Text of pyproject.toml.
    """

    cluster: dict[str, Any]
    dockerfile: str
    lock: str
    project: str

    @classmethod
    def read(cls) -> "Description":
        """Read the files of this repository."""
        cluster = yaml.safe_load((ROOT / "ray-cluster.yaml").read_text())
        files = ("cluster/Dockerfile", "requirements.lock", "pyproject.toml")
        return cls(cluster, *((ROOT / name).read_text() for name in files))

    @property
    def types(self) -> dict[str, Any]:
        """The node types, the head among them."""
        return dict(self.cluster["available_node_types"])

    @property
    def head(self) -> dict[str, Any]:
        """The head's node type."""
        return dict(self.types[self.cluster["head_node_type"]])

    @property
    def pools(self) -> dict[str, Any]:
        """The node types of workers."""
        return {name: node for name, node in self.types.items() if name != self.cluster["head_node_type"]}


Problems = Iterator[str]


def ray_accepts_it(description: Description) -> Problems:
    """Ray's own check, as `ray up` makes it."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(description.cluster)))
    except (jsonschema.ValidationError, AssertionError, KeyError, ValueError) as error:
        yield f"Ray refuses it: {str(error).splitlines()[0]}"


def compute_engine_knows_every_field(description: Description) -> Problems:
    """Google's schema of a machine."""
    for name, node in description.types.items():
        yield from instance_problems(node["node_config"], f"{name}.node_config")


def the_place_is_named(description: Description) -> Problems:
    """Project, region and zone."""
    provider = description.cluster["provider"]
    if not re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", str(provider.get("project_id", ""))):
        yield f"project_id is {provider.get('project_id')!r}, expected the project's id"
    if provider["availability_zone"].rsplit("-", 1)[0] != provider.get("region"):
        yield f"zone {provider['availability_zone']} is not in region {provider.get('region')}"
    if provider.get("cache_stopped_nodes") is not False:
        yield "cache_stopped_nodes is not false: a stopped machine still pays for its disk"


def versions_agree(description: Description) -> Problems:
    """Ray of the image and of the lock file; tags of the images and the project's version."""
    ray = re.findall(r"^ray==(\S+)", description.lock, re.MULTILINE)
    bases = re.findall(r"^FROM rayproject/ray:(\S+?)-py311-cpu AS (\w+)", description.dockerfile, re.MULTILINE)
    if bases != [(version, target) for version in ray for target in ("cpu", "gpu")]:
        yield f"cluster/Dockerfile builds {bases}, expected cpu and gpu with Ray {ray}"
    [version] = re.findall(r'^version = "(.+)"', description.project, re.MULTILINE)
    for name, node in description.types.items():
        target = "gpu" if "GPU" in node["resources"] else "cpu"
        image = node.get("docker", {}).get("worker_image", description.cluster["docker"]["image"])
        if not image.endswith(f"/{target}:{version}"):
            yield f"{name} runs image {image}, expected one that ends with /{target}:{version}"
    for commands in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        if commands not in description.cluster or any("pip" in it for it in description.cluster[commands]):
            yield f"{commands} installs packages, or is left to Ray, which then does: versions would differ"


def the_head_runs_no_work(description: Description) -> Problems:
    """Neither tasks nor a GPU on the head, and it is not a spot machine."""
    head = description.head
    if head["resources"] != {"CPU": 0} or head["max_workers"] != 0:
        yield f"the head has resources {head['resources']}, expected {{'CPU': 0}} and max_workers 0"
    config = head["node_config"]
    if "guestAccelerators" in config or not config.get("machineType", "").startswith(("e2-", "n2-")):
        yield f"the head is a {config.get('machineType')}, expected a small machine without a GPU"
    if config.get("scheduling", {}).get("provisioningModel", "STANDARD") != "STANDARD":
        yield "the head is a spot machine: with it the whole cluster would go"
    if not any("--head" in it and "--num-cpus=0" in it for it in description.cluster["head_start_ray_commands"]):
        yield "the head's `ray start` lacks --num-cpus=0"


def the_pools_begin_at_zero_and_end(description: Description) -> Problems:
    """Bounds of the pools, and when idle machines go."""
    for name, node in description.types.items():
        if node["min_workers"] != 0:
            yield f"{name} has min_workers {node['min_workers']}, expected 0"
    total = sum(node["max_workers"] for node in description.pools.values())
    if total != description.cluster["max_workers"]:
        yield f"max_workers is {description.cluster['max_workers']}, the pools' add up to {total}"
    if description.cluster["idle_timeout_minutes"] not in IDLE_MINUTES:
        yield f"idle_timeout_minutes is {description.cluster['idle_timeout_minutes']}, expected 1 to 15"


def machines_have_what_they_promise(description: Description) -> Problems:
    """CPUs and GPUs of the machine types; label and driver of machines with a GPU."""
    for name, node in description.pools.items():
        machine, resources = node["node_config"].get("machineType", ""), node["resources"]
        if not re.fullmatch(r"[a-z0-9]+-standard-\d+", machine):
            yield f"{name} is a {machine!r}, expected a standard machine like n2-standard-16"
            continue
        cpus = int(machine.rsplit("-", 1)[1])
        gpus = L4_OF_MACHINE.get(cpus, 0) if machine.startswith("g2-standard-") else 0
        if resources.get("CPU") != cpus or resources.get("GPU", 0) != gpus:
            yield f"{name} promises {resources}, but a {machine} has {cpus} CPU and {gpus} GPU"
        if gpus and node.get("labels", {}).get("ray.io/accelerator-type") != "L4":
            yield f"{name} has a GPU, but not the label ray.io/accelerator-type: L4"
        if gpus and "--gpus all" not in node.get("docker", {}).get("worker_run_options", []):
            yield f"{name} has a GPU, but its container is not started with --gpus all"


def machines_that_go_are_deleted(description: Description) -> Problems:
    """Spot machines, and those with a GPU, which cannot move to another host."""
    for name, node in description.pools.items():
        scheduling = node["node_config"].get("scheduling", {})
        if scheduling.get("provisioningModel") == "SPOT":
            for field, expected in SPOT.items():
                if scheduling.get(field) != expected:
                    yield f"{name} is spot, but {field} is {scheduling.get(field)!r}, expected {expected!r}"
        elif "GPU" in node["resources"] and scheduling.get("onHostMaintenance") != "TERMINATE":
            yield f"{name} has a GPU, but onHostMaintenance is not TERMINATE"
        if not any(WATCHER in it for it in description.cluster["worker_start_ray_commands"]):
            yield f"{name} is started without {WATCHER}"
    images = description.dockerfile.split("\nFROM ")[1:]
    if not all(f"\nCOPY --chown=ray cluster/{WATCHER} /home/ray/" in image for image in images):
        yield f"cluster/Dockerfile does not put {WATCHER} into both images"


def disks_are_sound(description: Description) -> Problems:
    """One boot disk that goes with its machine, large enough for the image, from a supported family."""
    for name, node in description.types.items():
        [disk] = node["node_config"].get("disks") or [{}]
        source = disk.get("initializeParams", {})
        if not (disk.get("boot") and disk.get("autoDelete")):
            yield f"{name} keeps its disk, or does not boot from it"
        if int(source.get("diskSizeGb", 0)) < SMALLEST_DISK_GB:
            yield f"{name} has diskSizeGb below {SMALLEST_DISK_GB}, too small for the machine's and our own image"
        if source.get("sourceImage") not in IMAGE_FAMILIES:
            yield f"{name} boots from {source.get('sourceImage')}, expected {', '.join(IMAGE_FAMILIES)}"


def every_machine_has_its_own_rights(description: Description) -> Problems:
    """Service accounts of the project; that of the head, which may start machines, is not the workers'."""
    project = description.cluster["provider"].get("project_id")
    head = description.cluster["head_node_type"]
    for name, node in description.types.items():
        accounts = [account["email"] for account in node["node_config"].get("serviceAccounts", [])]
        expected = [f"tissue-{'head' if name == head else 'worker'}@{project}.iam.gserviceaccount.com"]
        if accounts != expected:
            yield f"{name} runs as {accounts}, expected {expected}"


def nobody_else_gets_in(description: Description) -> Problems:
    """Dashboard and Jobs API on loopback, and a token for every part of Ray."""
    starts = ("head_start_ray_commands", "worker_start_ray_commands")
    commands = [command for name in starts for command in description.cluster[name]]
    for command in commands:
        if ("ray start" in command or WATCHER in command) and "RAY_AUTH_MODE=token" not in command:
            yield f"`{command}` lacks RAY_AUTH_MODE=token"
        if "ray start --head" in command and "--dashboard-host=127.0.0.1" not in command:
            yield f"`{command}` lacks --dashboard-host=127.0.0.1"
    if "/home/ray/.ray/auth_token" not in description.cluster.get("file_mounts", {}):
        yield "file_mounts does not bring the token to /home/ray/.ray/auth_token"


SHAPE: tuple[Callable[[Description], Problems], ...] = (ray_accepts_it, compute_engine_knows_every_field)
RULES: tuple[Callable[[Description], Problems], ...] = (
    the_place_is_named,
    versions_agree,
    the_head_runs_no_work,
    the_pools_begin_at_zero_and_end,
    machines_have_what_they_promise,
    machines_that_go_are_deleted,
    disks_are_sound,
    every_machine_has_its_own_rights,
    nobody_else_gets_in,
)


def find_problems(description: Description) -> list[str]:
    """Everything that a rule finds; empty if the description is fit to be used.

    Our own rules rely on the shape that Ray and Google ask for, so they come only after that.
    """
    in_shape = [problem for rule in SHAPE for problem in rule(description)]
    return in_shape or [problem for rule in RULES for problem in rule(description)]


if __name__ == "__main__":
    found = find_problems(Description.read())
    sys.stderr.writelines(f"error: ray-cluster.yaml: {problem}\n" for problem in found)
    sys.exit(1 if found else 0)
