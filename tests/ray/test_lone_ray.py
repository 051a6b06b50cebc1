"""A Ray on one machine, which does without processes that nothing asks."""

import pyarrow as pa
import pytest
import ray
from ray.util import list_named_actors

from lib.runtime.ray_data import map_units, stream_tables, units_dataset

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_graph_runs_on_all_cpus_and_starts_no_actor() -> None:
    before = list_named_actors(all_namespaces=True)  # of tests before it
    units = [pa.table({"number": [number]}) for number in range(6)]
    doubled = map_units(units_dataset(units), lambda unit: pa.table({"twice": [2 * unit["number"][0].as_py()]}))
    assert sorted(table["twice"][0].as_py() for table in stream_tables(doubled)) == [0, 2, 4, 6, 8, 10]
    assert list_named_actors(all_namespaces=True) == before
    assert ray.cluster_resources()["CPU"] >= 2
