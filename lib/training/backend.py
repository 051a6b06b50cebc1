"""Tells Ray Train's workers of each other, without importing TensorFlow where no model runs."""

import json
import os
import socket

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.execution.worker_group import WorkerGroup


def _free_address() -> str:
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _set_tf_config(value: str) -> None:
    os.environ["TF_CONFIG"] = value


class _TensorflowAddresses(Backend):
    def on_start(self, worker_group: WorkerGroup, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        for index in range(len(addresses)):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            worker_group.execute_single(index, _set_tf_config, json.dumps(task))


class TensorflowAddresses(BackendConfig):
    """Sets TF_CONFIG on every worker.

    `ray.train.tensorflow` does the same, but imports TensorFlow in the driver and the controller too, several
    seconds each.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend that Ray Train runs."""
        return _TensorflowAddresses
