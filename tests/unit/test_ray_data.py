"""How Ray Data is set up."""

import logging

import pytest
from ray._private.log import PlainRayHandler
from ray._private.node import Node
from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.stats import _StatsManager

from lib.runtime.lone_ray import LOG_READER_START, NEEDLESS_STARTS, NEEDLESS_TELLING
from lib.runtime.ray_data import FINISHED_TASKS_POLL_S, prepare_context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, by Ray
def test_the_interval_that_is_shortened_is_the_one_that_ray_data_waits_for() -> None:
    used = streaming_executor_state.process_completed_tasks.__code__.co_names
    assert "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S" in used
    prepare_context()
    assert streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == FINISHED_TASKS_POLL_S


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, by Ray
def test_only_rays_own_handler_is_silenced_where_ray_train_has_lent_it_those_of_the_root() -> None:
    logger, ours, of_ray = logging.getLogger("ray.data"), logging.StreamHandler(), PlainRayHandler()
    for handler in (ours, of_ray):
        logger.addHandler(handler)
    try:
        prepare_context()
    finally:
        for handler in (ours, of_ray):
            logger.removeHandler(handler)
    assert (ours.level, of_ray.level) == (logging.NOTSET, logging.CRITICAL)


def test_the_processes_that_are_left_out_are_some_that_ray_starts() -> None:
    assert set(NEEDLESS_STARTS) <= set(Node.start_head_processes.__code__.co_names)
    assert LOG_READER_START in Node.start_ray_processes.__code__.co_names
    assert set(NEEDLESS_TELLING) <= vars(_StatsManager).keys()
