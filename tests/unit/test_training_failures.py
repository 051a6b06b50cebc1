"""What ends training, what starts it again, and who is to blame for a stall."""

import json
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.train import FailureConfig
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from lib.config.fitting import FitConfig
from lib.errors import DataError, MemoryKillsError, SettingsError, StorageError, TissueError
from lib.folders.model import SEEN_SCHEMA, read_seen_images, write_seen_images
from lib.storage.location import Location
from lib.training.workers import messages as messages_module
from lib.training.workers.failures import (
    LostGpuError,
    LostPeerError,
    PreemptedError,
    RestartAfterLoss,
    lost_gpu_named,
    lost_peers_named,
    user_error,
)
from lib.training.workers.messages import ChecksumsKnown, MessageLog, Note, SignOfLife
from lib.training.workers.ray_train import in_this_process, is_elastic, scaling
from lib.training.workers.watchdog import LONG_SILENCE_S, LONG_WORK_S, Heartbeat, StallWatch, find_stalled
from tests.fakes.jobs import wait_for

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE
DEAD = WorkerHealthCheckFailedError("A worker health check failed.", failure=ActorDiedError())
PEER = LostPeerError("its connection to another worker broke")


def failed(**by_rank: Exception) -> WorkerGroupError:
    """An error of a group, of `rank0=`, `rank1=`."""
    return WorkerGroupError("text", {int(rank.removeprefix("rank")): error for rank, error in by_rank.items()})


def decide(*errors: TrainingFailedError, max_failures: int = 3) -> tuple[list[FailureDecision], list[str]]:
    messages = MessageLog()
    policy = RestartAfterLoss(FailureConfig(max_failures=max_failures), messages)
    decisions = [policy.make_decision(error) for error in errors]
    return decisions, [event.text for event in messages.news().events if isinstance(event, Note)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DEAD, "its process is gone"),
        (WorkerHealthCheckTimeoutError("hangs"), "it no longer answers"),
        (WorkerHealthCheckFailedError("failed", failure=NodeDiedError("the node has died")), "its machine is gone"),
        (OutOfMemoryError("killed"), "its machine ran out of memory"),
        (MemoryKillsError("a machine ran out of memory: --flag"), "a machine ran out of memory: --flag"),
        (WorkerCrashedError(), "its process is gone"),
        (PEER, "its connection to another worker broke"),
    ],
)
def test_a_lost_worker_is_named_and_training_starts_again(error: Exception, reason: str) -> None:
    decisions, notes = decide(failed(rank1=error))
    assert decisions == [RETRY]
    assert notes == [f"rank 1 was lost ({reason}); training restarts from its last checkpoint (restarts left: 2)"]


def test_the_worker_that_died_is_named_and_not_those_that_suffered() -> None:
    assert decide(failed(rank0=PEER, rank1=DEAD))[1][0].startswith("rank 1 was lost (its process is gone);")


def test_restarts_are_counted() -> None:
    decisions, notes = decide(failed(rank0=DEAD), failed(rank1=DEAD), failed(rank0=DEAD), max_failures=2)
    assert decisions == [RETRY, RETRY, RAISE]
    assert [note.rpartition(" (")[2] for note in notes] == ["restarts left: 1)", "restarts left: 0)"]


@pytest.mark.parametrize(
    "error",
    [
        DataError("a"),
        StorageError("b"),
        ValueError("c"),
        RayTaskError("f", "trace", DataError("d")).as_instanceof_cause(),
    ],
)
def test_a_fault_of_our_own_ends_training_at_once_whatever_else_happened(error: Exception) -> None:
    decisions, notes = decide(failed(rank0=PEER, rank1=DEAD, rank2=error))
    assert (decisions, notes) == ([RAISE], [])


def test_a_worker_lost_while_it_started_counts_like_any_other() -> None:
    starting = ControllerError(WorkerGroupStartupFailedError("died"))
    decisions, notes = decide(starting, ControllerError(ActorDiedError()), starting, max_failures=2)
    assert decisions == [RETRY, RETRY, RAISE]
    assert notes[0].startswith("a worker was lost")


def test_announced_preemptions_do_not_count() -> None:
    announced = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [1]}))
    decisions, notes = decide(failed(rank0=PreemptedError("saved")), announced, max_failures=0)
    assert decisions == [RETRY, RETRY]
    assert notes[0] == "a machine is about to be reclaimed; training continues elsewhere from its last checkpoint"


def test_a_single_machine_gets_no_more_room_but_a_cluster_may(monkeypatch: pytest.MonkeyPatch) -> None:
    no_room = ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    assert decide(no_room)[0] == [RAISE]
    assert isinstance(user_error(no_room, 3), SettingsError)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert decide(no_room, no_room, max_failures=0)[0] == [RETRY, RETRY]


def test_a_user_is_told_the_fault_itself() -> None:
    fault = DataError("class 'lung' has no usable training image left")
    assert user_error(failed(rank0=PEER, rank1=ValueError("other"), rank2=fault), 3) is fault
    assert str(user_error(failed(rank1=ValueError("other")), 3)) == "other"


def test_a_user_is_told_which_workers_were_lost_once_too_often() -> None:
    error = user_error(failed(rank0=PEER, rank1=DEAD), 2)
    assert isinstance(error, TissueError)
    assert str(error).startswith("rank 1 was lost (its process is gone); restart limit reached (--max-failures 2)")


@pytest.mark.parametrize(
    ("message", "peer"),
    [
        ("recvmsg:Connection reset by peer\nfrom remote target /job:worker/replica:0/task:1 while calling", "rank 1"),
        (
            "from /job:worker/task:0: unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:2",
            "rank 2",
        ),
        ("Socket closed", "another worker"),
    ],
)
def test_a_broken_collective_names_the_other_worker(message: str, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow import errors

    monkeypatch.setattr("lib.training.workers.failures.CULPRIT_FIRST_S", 0)
    with pytest.raises(LostPeerError, match=f"^its connection to {peer} broke$"), lost_peers_named():
        raise errors.UnavailableError(None, None, message)


def test_a_taken_port_is_no_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow import errors

    monkeypatch.setattr("lib.training.workers.failures.CULPRIT_FIRST_S", 0)
    with pytest.raises(LostPeerError, match="its port was taken before it started"), lost_peers_named():
        raise errors.UnknownError(None, None, "Could not start gRPC server")


def test_an_error_of_the_network_itself_stays_as_it_is() -> None:
    from tensorflow import errors

    with pytest.raises(errors.InvalidArgumentError), lost_peers_named():
        raise errors.InvalidArgumentError(None, None, "logits and labels must have the same first dimension")


ABORTED = "Collective ops is aborted by: "
NCCL_BROKE = [
    # TensorFlow's `nccl_manager.cc`, with NCCL's older texts and its newer ones
    ("UnknownError", "Error invoking NCCL: unhandled cuda error\n\t [[{{node Reduce}}]]", "unhandled cuda error"),
    ("InternalError", "NCCL: unhandled system error. Set NCCL_DEBUG=WARN for detail.", "unhandled system error"),
    (
        "InternalError",
        "NCCL: remote process exited or there was a network error. Set NCCL_DEBUG=WARN for detail.",
        "remote process exited or there was a network error",
    ),
    ("UnknownError", ABORTED + "Error invoking NCCL: unhandled system error (run with NCCL_DEBUG=INFO for details)",
     "unhandled system error"),
    ("InternalError", "NCCL: internal error - please report this issue to the NCCL developers.", "internal error"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "reason"), NCCL_BROKE)
def test_a_collective_that_breaks_between_gpus_is_a_loss(
    kind: str, message: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorflow import errors

    monkeypatch.setattr("lib.training.workers.failures.CULPRIT_FIRST_S", 0)
    with pytest.raises(LostPeerError) as lost, lost_peers_named(), lost_gpu_named():
        raise getattr(errors, kind)(None, None, message)
    assert str(lost.value) == f"its connection to another worker broke (NCCL: {reason})"
    assert decide(failed(rank0=lost.value, rank1=lost.value))[0] == [RETRY]


@pytest.mark.parametrize("before", ["", ABORTED])
@pytest.mark.parametrize("misuse", ["invalid usage", "invalid argument (run with NCCL_DEBUG=WARN for details)"])
def test_a_wrong_use_of_nccl_ends_training_since_it_would_come_again(before: str, misuse: str) -> None:
    from tensorflow import errors

    with pytest.raises(errors.InternalError) as fault, lost_peers_named(), lost_gpu_named():
        raise errors.InternalError(None, None, f"{before}NCCL: {misuse}. Set NCCL_DEBUG=WARN for detail.")
    assert decide(failed(rank0=PEER, rank1=fault.value))[0] == [RAISE]


GPU_FAILED = [
    # where the kernel logs Xid 48, 94 or 95; issue 89 of nagadit/DeepFaceLab_Linux
    (
        "failed initializing StreamExecutor for CUDA device ordinal 0: INTERNAL: failed call to "
        "cuDevicePrimaryCtxRetain: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered",
        "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered",
    ),
    ("CUDA: uncorrectable ECC error encountered", "uncorrectable ECC error encountered"),
    # Xid 74; issue 58155 of pytorch/pytorch has the text
    ("CUDA: uncorrectable NVLink error detected during the execution",
     "uncorrectable NVLink error detected during the execution"),
    # issues 28693 (a card with bad memory), 35897 and 1450 of tensorflow/tensorflow
    (
        "failed to query event: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure\n\t [[{{node xla_run}}]]",
        "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
    ),
    ("GPU sync failed", "GPU sync failed"),
    # Xid 79, "GPU has fallen off the bus"; issue 1 of wilicc/gpu-burn
    ("Failed to enqueue async memcpy: CUDA_ERROR_UNKNOWN: unknown error", "CUDA_ERROR_UNKNOWN: unknown error"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason"), GPU_FAILED)
def test_a_gpu_that_fails_is_the_loss_of_its_worker(message: str, reason: str) -> None:
    from tensorflow import errors

    with pytest.raises(LostGpuError) as lost, lost_peers_named(), lost_gpu_named():
        raise errors.InternalError(None, None, message)
    decisions, notes = decide(failed(rank0=PEER, rank1=lost.value))
    assert decisions == [RETRY]
    assert notes[0].startswith(f"rank 1 was lost (its GPU failed: {reason}); training restarts")
    assert f"rank 1 was lost (its GPU failed: {reason}); restart limit" in str(user_error(failed(rank1=lost.value), 0))
    assert str(lost.value).startswith(f"the GPU failed ({reason}); run the same command again to resume")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("InternalError", "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"),
        ("ResourceExhaustedError", "failed to allocate 8B: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        ("InternalError", "failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"),
        ("InternalError", "Blas GEMM launch failed"),
    ],
)
def test_a_gpu_that_was_asked_for_what_cannot_be_is_a_fault_of_the_program(kind: str, message: str) -> None:
    from tensorflow import errors

    with pytest.raises(getattr(errors, kind)) as fault, lost_peers_named(), lost_gpu_named():
        raise getattr(errors, kind)(None, None, message)
    assert decide(failed(rank0=PEER, rank1=fault.value))[0] == [RAISE]


def test_only_tensorflow_tells_of_a_gpu() -> None:
    with pytest.raises(DataError), lost_gpu_named():
        raise DataError("the label is 'GPU sync failed'")


def test_who_waited_for_the_worker_with_the_gpu_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow import errors

    monkeypatch.setattr("lib.training.workers.failures.CULPRIT_FIRST_S", 0)
    reason = "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error\nfrom remote target /job:worker/replica:0/task:1"
    with pytest.raises(LostPeerError) as lost, lost_peers_named(), lost_gpu_named():
        raise errors.InternalError(None, None, ABORTED + reason)
    assert str(lost.value) == "its connection to rank 1 broke"


@pytest.mark.parametrize("error", [PEER, PreemptedError("saved"), LostGpuError("GPU sync failed")])
def test_errors_survive_the_way_between_processes(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


SIGN = SignOfLife("group", 0, "node", 1, 0.0, steps=5, patient=False, idle_s=0.0)


@pytest.mark.parametrize(
    ("signs", "stalled"),
    [
        ([], None),
        ([replace(SIGN, idle_s=9)], None),
        ([replace(SIGN, idle_s=11)], 0),
        # the one that has begun fewer steps holds up the other, however long the other has waited
        ([replace(SIGN, idle_s=30, steps=6), replace(SIGN, rank=1, idle_s=11)], 1),
        ([replace(SIGN, idle_s=30, steps=6), replace(SIGN, rank=1, idle_s=9)], None),
        # a stopped process may have begun the next step
        ([replace(SIGN, idle_s=11), replace(SIGN, rank=1, steps=6, idle_s=11, silent_s=11)], 1),
        # of two equal ones it is the one that moved on longest ago
        ([replace(SIGN, idle_s=12), replace(SIGN, rank=1, idle_s=11)], 0),
        # compiling takes its time, if the process is not stopped
        ([replace(SIGN, patient=True, idle_s=LONG_WORK_S - 1)], None),
        ([replace(SIGN, patient=True, idle_s=LONG_WORK_S + 1)], 0),
        ([replace(SIGN, patient=True, idle_s=11, silent_s=11)], 0),
        # and so do the imports before the first step
        ([replace(SIGN, patient=True, steps=0, idle_s=11, silent_s=11)], None),
        ([replace(SIGN, patient=True, steps=0, idle_s=LONG_SILENCE_S + 1, silent_s=LONG_SILENCE_S + 1)], 0),
    ],
)
def test_the_worker_that_holds_up_the_others_is_found(signs: list[SignOfLife], stalled: int | None) -> None:
    found = find_stalled(signs, timeout_s=10)
    assert (found and found.rank) == stalled


def test_only_the_newest_group_counts_also_when_an_old_worker_speaks_last() -> None:
    messages = MessageLog()
    for sign in (SIGN, replace(SIGN, group="next", rank=1, steps=0), SIGN):
        messages.report(sign)
    [sign] = messages.news().signs
    assert (sign.group, sign.rank) == ("next", 1)


@pytest.fixture
def own_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Context:
        def get_node_id(self) -> str:
            return "node"

    monkeypatch.setattr("ray.get_runtime_context", Context)
    return


@pytest.mark.usefixtures("own_node")
def test_a_worker_tells_how_far_it_is_and_when_it_ends() -> None:
    messages = MessageLog()
    with Heartbeat(messages, rank=2) as heartbeat:
        heartbeat.step()
        heartbeat.step(patient=True)
        wait_for_sign(messages, steps=2)
        [sign] = messages.news().signs
        assert (sign.rank, sign.patient, sign.node_id) == (2, True, "node")
    assert messages.news().signs == []


@pytest.mark.usefixtures("own_node")
def test_workers_that_train_together_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = MessageLog()
    with ExitStack() as workers:
        for rank in range(2):
            task = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": rank}}
            monkeypatch.setenv("TF_CONFIG", json.dumps(task))
            workers.enter_context(Heartbeat(messages, rank))
        wait_for(lambda: len(messages.news().signs) == 2, "both are seen")


def wait_for_sign(messages: MessageLog, steps: int) -> None:
    wait_for(lambda: any(sign.steps == steps for sign in messages.news().signs), "the step is known")


def test_a_stall_in_this_very_process_interrupts_it_with_an_error() -> None:
    messages = MessageLog()
    messages.report(replace(SIGN, idle_s=11))
    watch = StallWatch(messages, 10, in_this_process=True)

    def work() -> None:
        with watch:
            watch.look()
            time.sleep(300)

    with pytest.raises(TissueError, match=r"no step for 11 s \(--stall-timeout 10\), after 5 steps"):
        work()


def test_a_paused_watcher_does_not_judge_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 600, 60))
    monkeypatch.setattr("lib.training.workers.watchdog.time", SimpleNamespace(monotonic=lambda: next(clock)))
    messages = MessageLog()
    messages.report(replace(SIGN, idle_s=100))
    with StallWatch(messages, 10, in_this_process=True) as watch:
        watch.look()


def settings(**changes: Any) -> FitConfig:
    return FitConfig.model_validate(changes)


def test_one_machine_takes_as_many_workers_of_a_range_as_it_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert not is_elastic(settings(num_workers="1:4"))
    assert scaling(settings(num_workers="1:4")).num_workers == 3
    assert scaling(settings(num_workers="4:6")).num_workers == 4
    assert in_this_process(settings(num_workers=1))
    assert scaling(settings(num_workers=1)).num_workers == 0


def test_a_cluster_is_followed_but_for_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    nodes = [{"NodeID": "head", "Resources": {}}, {"NodeID": "other", "Resources": {"CPU": 1.0}}]
    monkeypatch.setattr("ray.nodes", lambda: [node | {"Alive": True} for node in nodes])
    assert scaling(settings(num_workers="1:4")).num_workers == (1, 4)
    assert scaling(settings(num_workers="1:4")).label_selector == {"ray.io/node-id": "!in(head)"}
    assert scaling(settings(num_workers="2:2")).num_workers == 2
    assert not in_this_process(settings(num_workers=1))


def test_workers_hold_no_cpu_that_would_decode_their_images() -> None:
    assert scaling(settings(num_workers=2)).resources_per_worker == {"memory": 1}
    assert scaling(settings(num_workers=2, use_gpu=True)).resources_per_worker == {"GPU": 1}


def test_checksums_that_every_epoch_tells_anew_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "MANY_ROWS", 10)
    messages, held = MessageLog(), []
    for number in [*range(30), *range(30)]:
        rows = [{"image_id": f"{number}-{place}", "checksum": "crc32c:AAAAAA=="} for place in range(4)]
        messages.report(ChecksumsKnown(pa.Table.from_pylist(rows, schema=SEEN_SCHEMA)))
        held.append(len(messages._checksums) + sum(map(len, messages._new_checksums)))
    assert max(held) <= 2 * 120 + 4
    found = messages.image_verdicts().checksums
    assert sorted(found["image_id"].to_pylist()) == sorted(f"{n}-{place}" for n in range(30) for place in range(4))


def test_the_images_that_a_model_has_seen_are_written_once_each_and_in_order(tmp_path: Path) -> None:
    rows = [{"image_id": image, "checksum": "c"} for image in ("b", "a", "b")] + [{"image_id": "a", "checksum": "b"}]
    write_seen_images(pa.Table.from_pylist(rows, schema=SEEN_SCHEMA), Location(str(tmp_path)))
    seen = read_seen_images(Location(str(tmp_path))).to_pylist()
    assert [(row["image_id"], row["checksum"]) for row in seen] == [("a", "b"), ("a", "c"), ("b", "c")]
