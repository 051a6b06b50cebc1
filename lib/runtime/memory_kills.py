"""Tasks that Ray ends since their machine runs out of memory: how that is known, and how to run fewer at once."""

from collections.abc import Mapping

MEMORY_KILL = "running low on memory"
"""In what Ray 2.60 says of a process that its memory monitor has ended."""
GIB = 2**30


def is_memory_kill(error: BaseException) -> bool:
    """Whether Ray ended a process to save its machine from running out of memory."""
    from ray.exceptions import OutOfMemoryError

    return isinstance(error, OutOfMemoryError) or MEMORY_KILL in str(error)


def fewer_at_once(reserved: Mapping[str, float]) -> dict[str, float] | None:
    """What to reserve for each task so that half as many run at once on a machine.

    Args:
        reserved: What each has reserved so far: `num_cpus`, and `memory` in bytes if any.

    Returns:
        None if each had a machine to itself already.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most, memory = max((_at_once(machine, reserved), machine.get("memory", 0.0)) for machine in machines)
    return {**reserved, "memory": int(memory // (most // 2))} if most > 1 else None


def _at_once(machine: Mapping[str, float], reserved: Mapping[str, float]) -> int:
    """How many tasks a machine of Ray runs at once."""
    by_cpus = machine.get("CPU", 0.0) / reserved["num_cpus"]
    by_memory = machine.get("memory", 0.0) / reserved["memory"] if reserved.get("memory") else by_cpus
    return int(min(by_cpus, by_memory))
