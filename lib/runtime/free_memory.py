"""How much memory a process may still take: in a container, and beside Ray's object store, less than is free.

Source: Linux's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

STATISTICS = "memory.stat"
HIERARCHIES = {
    "": (Path("sys/fs/cgroup"), "memory.max", "memory.current", ""),
    "memory": (Path("sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}
"""By what `/proc/self/cgroup` calls it, version 2 and 1: its folder, limit, use, and how its statistics begin."""


class Group(NamedTuple):
    """A control group that this process is in.

    Attributes:
        free: Bytes up to its limit, pages of files that may be dropped included; infinite without a limit.
        shared: Bytes of shared memory, as Ray's object store is.
    """

    free: float
    shared: int


def free_memory() -> int:
    """Bytes that are free for this process, without those that Ray's object store on this machine has yet to take."""
    machine, groups = psutil.virtual_memory(), list(control_groups())
    free = min([machine.available, *(group.free for group in groups)])
    shared = min([getattr(machine, "shared", 0), *(group.shared for group in groups)])
    return max(int(free - max(object_store_bytes() - shared, 0)), 0)


def control_groups(root: Path = Path("/")) -> Iterator[Group]:
    """The control groups of this process, from its own to the one that holds all; none where there are none.

    Args:
        root: Where `proc` and `sys` are.
    """
    memberships = root / "proc/self/cgroup"
    for line in memberships.read_text().splitlines() if memberships.exists() else []:
        _, name, path = line.split(":", 2)
        if name in HIERARCHIES:
            folder, limit, use, prefix = HIERARCHIES[name]
            top = root / folder
            own = top / path.lstrip("/")  # in a container, often a path of the host; then only the top is there
            for place in (own, *own.parents):
                told = all((place / file).exists() for file in (limit, use, STATISTICS))  # sandboxes have some of them
                if place.is_relative_to(top) and told:
                    yield _group(place, limit, use, prefix)


def _group(place: Path, limit: str, use: str, prefix: str) -> Group:
    pairs = (line.split() for line in (place / STATISTICS).read_text().splitlines())
    statistics = {name: int(value) for name, value in pairs}
    most = (place / limit).read_text().strip()
    used = int((place / use).read_text()) - statistics.get(f"{prefix}inactive_file", 0)
    return Group(math.inf if most == "max" else int(most) - used, statistics.get(f"{prefix}shmem", 0))


def object_store_bytes() -> int:
    """What Ray's object store on this machine may take; 0 without Ray."""
    import ray

    if not ray.is_initialized():
        return 0
    here = ray.get_runtime_context().get_node_id()
    return sum(int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["NodeID"] == here)
