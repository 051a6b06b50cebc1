"""What a process may still take of memory, in a container and beside Ray's object store."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.runtime import free_memory as module
from lib.runtime.free_memory import Group, control_groups, free_memory


def write(folder: Path, **contents: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def member(root: Path, line: str) -> None:
    write(root / "proc/self", cgroup=line)


def test_a_group_without_a_limit_is_bound_by_the_one_around_it(tmp_path: Path) -> None:
    member(tmp_path, "0::/user.slice/job")
    top = tmp_path / "sys/fs/cgroup"
    write(
        top / "user.slice/job", memory__max="max", memory__current=50, memory__stat="anon 1\ninactive_file 5\nshmem 7"
    )
    write(top / "user.slice", memory__max=1000, memory__current=400, memory__stat="inactive_file 100\nshmem 30")
    assert list(control_groups(tmp_path)) == [Group(math.inf, 7), Group(700, 30)]


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    member(tmp_path, "5:devices:/docker/3f\n4:memory:/docker/3f")
    files = {"memory__limit_in_bytes": 1000, "memory__usage_in_bytes": 300}
    write(tmp_path / "sys/fs/cgroup/memory", **files, memory__stat="total_inactive_file 50\ntotal_shmem 9\nshmem 1")
    assert list(control_groups(tmp_path)) == [Group(750, 9)]


def test_a_sandbox_that_tells_a_limit_alone_is_passed_over(tmp_path: Path) -> None:
    member(tmp_path, "0::/")
    write(tmp_path / "sys/fs/cgroup", memory__max=1000)
    assert list(control_groups(tmp_path)) == []
    write(tmp_path / "sys/fs/cgroup", memory__current=300, memory__stat="anon 1")
    assert list(control_groups(tmp_path)) == [Group(700, 0)]


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert list(control_groups(tmp_path)) == []


@pytest.mark.parametrize(
    ("groups", "store", "free"),
    [
        ([], 0, 1000),
        ([], 300, 900),  # 200 of the 300 are in use, and so not free any more
        ([], 150, 1000),
        ([Group(600, 50)], 300, 350),  # of this machine's shared memory, 50 are this container's
        ([Group(math.inf, 200)], 0, 1000),
        ([Group(100, 0)], 300, 0),
    ],
)
def test_what_ray_has_yet_to_take_for_its_objects_is_not_free(
    monkeypatch: pytest.MonkeyPatch, groups: list[Group], store: int, free: int
) -> None:
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000, shared=200))
    monkeypatch.setattr(module, "control_groups", lambda: iter(groups))
    monkeypatch.setattr(module, "object_store_bytes", lambda: store)
    assert free_memory() == free


def test_this_machine_tells_what_is_free() -> None:
    assert 0 < free_memory() <= module.psutil.virtual_memory().total
