"""Whether the nodes of the cluster agree, see their GPUs, and have the memory that the settings take."""

import os
import tempfile
from platform import python_version
from typing import Any

from lib.config.chain import DoctorConfig
from lib.dataset.memory import MEMORY_SHARE, image_bytes
from lib.errors import SettingsError, in_one_line
from lib.folders.output import package_versions
from lib.ingest.listing import Listing
from lib.report.formatting import count_of
from lib.runs.doctor.findings import Finding
from lib.runs.doctor.storage import Sample
from lib.runtime.environment import ray_is_ours
from lib.runtime.gpus import require_gpus, visible_gpus
from lib.runtime.ray_data import start_ray

ANSWER_S = 120.0


def describe_node() -> dict[str, str]:
    """The versions on this machine that must be the same on all."""
    return {"python": python_version(), **package_versions()}


def reach_ray(config: DoctorConfig) -> str:
    """Start or join Ray.

    Raises:
        TissueError: If it cannot be.
    """
    start_ray(config)
    if ray_is_ours():
        return f"starts on this machine, with its files in {os.environ.get('RAY_TMPDIR') or tempfile.gettempdir()}"
    return f"answers at RAY_ADDRESS={os.environ['RAY_ADDRESS']}"


def check_nodes(config: DoctorConfig) -> list[Finding]:
    """Ask each node of Ray, which is running."""
    return [_versions(), _gpus(config)]


def _versions() -> Finding:
    here = describe_node()
    answers = ask_nodes(describe_node, nodes_up(), num_cpus=0)
    differing = [
        f"{name} is {there[name]} on {node}, {here[name]} here"
        for node, there in answers.items()
        for name in here
        if there[name] != here[name]
    ]
    if differing:
        return Finding("versions", "blocks", "; ".join(differing[:3]) + ": use one image for all nodes")
    return Finding(
        "versions", "ok", f"Python {here['python']} and Ray {here['ray']} on {count_of(len(answers), 'node')}"
    )


def _gpus(config: DoctorConfig) -> Finding:
    if not config.use_gpu:
        return Finding("GPUs", "ok", "not requested (--use-gpu)")
    try:
        require_gpus(config, config.num_workers.fewest)
    except SettingsError as error:
        return Finding("GPUs", "blocks", in_one_line(error))
    nodes = {name: node for name, node in nodes_up().items() if node["Resources"].get("GPU")}
    if not nodes:
        return Finding("GPUs", "warning", "no GPU machine is running yet; billing starts with training")
    blind = [node for node, count in ask_nodes(visible_gpus, nodes, num_gpus=1).items() if not count]
    if blind:
        return Finding("GPUs", "blocks", f"TensorFlow sees no GPU on {', '.join(blind)}: use the GPU image there")
    return Finding("GPUs", "ok", f"TensorFlow sees the GPUs of {count_of(len(nodes), 'node')}")


def nodes_up() -> dict[str, Any]:
    """What Ray says of each node that is up, by its address."""
    import ray

    return {str(node["NodeManagerAddress"]): node for node in ray.nodes() if node["Alive"]}


def ask_nodes(question: Any, nodes: dict[str, Any], **resources: float) -> dict[str, Any]:
    """What a function returns on each node, by the node's address.

    Args:
        question: The function.
        nodes: See `nodes_up`.
        **resources: What Ray reserves for it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(question)
    asked = {
        name: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), **resources
        ).remote()
        for name, node in nodes.items()
    }
    return {name: ray.get(answer, timeout=ANSWER_S) for name, answer in asked.items()}


def cluster_cpus() -> int:
    """CPUs that Ray has now."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def judge_memory(sample: Sample, listing: Listing, config: DoctorConfig) -> Finding:
    """Whether the largest images can be decoded on every CPU at once, and the training images be kept."""
    nodes = nodes_up().values()
    memory = min(node["Resources"].get("memory", 0) / max(node["Resources"].get("CPU", 1), 1) for node in nodes)
    decoding = sample.decoding_bytes
    images = image_bytes(listing.images.num_rows, config.image_size)
    text = f"decoding needs up to {decoding / 2**30:.2f} GiB per image; each CPU has {memory / 2**30:.1f} GiB"
    if memory and decoding > memory:
        return Finding("memory", "blocks", text + ": give Ray fewer CPUs per node")
    kept = sum(node["Resources"].get("memory", 0) for node in nodes) * MEMORY_SHARE
    fits = images < kept
    if not fits and config.cache == "memory":
        return Finding(
            "memory", "blocks", f"the training images need {images / 2**30:.1f} GiB decoded; use --cache auto"
        )
    how = "are kept in memory" if fits and config.cache != "none" else "are streamed again in every epoch"
    return Finding("memory", "ok", f"{text}; the training images ({images / 2**30:.1f} GiB decoded) {how}")
