"""All looks, in the order in which one failing makes the next pointless."""

from collections.abc import Callable, Iterator
from typing import Any

from lib.config.chain import DoctorConfig
from lib.errors import TissueError, in_one_line
from lib.evaluation.choice.candidates import describe_missing, find_missing
from lib.ingest.listing import Listing
from lib.models.spec import CNN, ModelSpec, parse_spec
from lib.runs.doctor import storage
from lib.runs.doctor.cluster import check_nodes, cluster_cpus, judge_memory, nodes_up, reach_ray
from lib.runs.doctor.estimate import Estimate, estimate, images_by_split
from lib.runs.doctor.findings import Finding, look
from lib.runs.doctor.speed import ModelSpeed, judge_speed, judge_workers, measure_speed
from lib.runs.doctor.storage import Sample
from lib.runs.pipeline import plan_models
from lib.training.trainer import require_weights_of


class Diagnosis:
    """Findings as they come, and the speeds and the estimate once there are any."""

    def __init__(self, config: DoctorConfig) -> None:
        self._config = config
        self.estimate: Estimate | None = None
        self.speeds: dict[str, ModelSpeed] = {}

    def findings(self) -> Iterator[Finding]:
        """Look at everything; what depends on something that failed is left out."""
        config = self._config
        yield look("source", lambda: storage.reach_source(config))
        yield look("output", lambda: storage.write_output(config))
        plan = yield from self._need("models", lambda: plan_models(config), ", ".join)
        if plan is not None:
            weights, plan = _look_for_weights(config, plan)
            yield weights
        ray = look("Ray", lambda: reach_ray(config))
        yield ray
        has_ray = ray.state == "ok"
        if has_ray:
            yield from check_nodes(config)
        listing = yield from self._need("listing", lambda: storage.list_source(config), storage.describe_listing)
        if listing is None:
            return
        yield storage.judge_files(listing)
        try:
            sample = storage.convert_sample(listing, config)
        except TissueError as error:
            yield Finding("decoding", "blocks", in_one_line(error))
            return
        yield storage.judge_sample(sample, config)
        yield storage.judge_disk(sample, listing, config)
        if not has_ray:
            return
        yield judge_memory(sample, listing, config)
        if plan:
            yield from self._speed(plan, listing, sample)

    def _speed(self, plan: dict[str, ModelSpec], listing: Listing, sample: Sample) -> Iterator[Finding]:
        """How fast the models are here, how many workers there may be, and what all of it takes."""
        config, splits = self._config, images_by_split(listing)
        # The one network that all machines are compared by comes first, whatever is to be trained.
        first = {} if any(spec.name == CNN for spec in plan.values()) else {CNN: parse_spec(CNN)}
        for name, spec in (first | plan).items():
            try:
                speed = measure_speed(name, spec, config, len(listing.class_names), splits.get("train", 0))
            except TissueError as error:
                yield Finding("step", "blocks", f"{name}: {in_one_line(error)}")
                return
            self.speeds[name] = speed
            yield judge_speed(name, speed, config, splits)
        yield judge_workers(config, nodes_up().values())
        cpus = config.cpus or max(cluster_cpus(), 1)
        yield look("estimate", lambda: self._estimated(estimate(config, splits, sample, plan, self.speeds, cpus)))

    def _need(self, check: str, call: Callable[[], Any], describe: Callable[[Any], str]) -> Any:
        try:
            result = call()
        except TissueError as error:
            yield Finding(check, "blocks", in_one_line(error))
            return None
        yield Finding(check, "ok", describe(result))
        return result

    def _estimated(self, found: Estimate) -> str:
        self.estimate = found
        return str(found)


def _look_for_weights(config: DoctorConfig, plan: dict[str, ModelSpec]) -> tuple[Finding, dict[str, ModelSpec]]:
    """What is missing, and the models that are left: where one is to be chosen, those without weights are not tried."""
    if not config.chooses:
        return look("weights", lambda: _weights(plan, config.image_size)), plan
    try:
        missing = find_missing(plan, config.image_size)
    except TissueError as error:
        return Finding("weights", "blocks", in_one_line(error)), {}
    left = {name: spec for name, spec in plan.items() if name not in missing}
    if missing:
        return Finding("weights", "warning", describe_missing(plan, missing)), left
    return Finding("weights", "ok", _at_hand(plan)), left


def _weights(plan: dict[str, ModelSpec], image_size: int) -> str:
    require_weights_of(plan.values(), image_size)
    return _at_hand(plan)


def _at_hand(plan: dict[str, ModelSpec]) -> str:
    return "available; " + "; ".join(f"{name}: {spec.beginning}" for name, spec in plan.items())
