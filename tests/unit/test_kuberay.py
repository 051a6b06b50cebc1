"""The manifests for Kubernetes: fit for KubeRay's own schemas, and the same cluster as ray-cluster.yaml describes."""

import copy
import functools
import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster import drain_on_preemption

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster/kuberay"
SCHEMAS = ROOT.parent / "shared/data/kuberay"
Content = dict[str, Any]

needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason="KubeRay's schemas are not here")


def manifest(name: str) -> Content:
    content: Content = yaml.safe_load((KUBERAY / name).read_text())
    return content


@functools.cache
def ray_cluster() -> Content:
    content: Content = yaml.safe_load((ROOT / "ray-cluster.yaml").read_text())
    return content


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """KubeRay's schema of a kind, in which a field that is not named is an error."""
    definition = yaml.load(
        gzip.decompress((SCHEMAS / f"ray.io_{kind.lower()}s.yaml.gz").read_bytes()), yaml.CSafeLoader
    )
    [version] = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]} | {key: schema[key] for key in ("pattern",) if key in schema}
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


def problems(content: Content) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(content["kind"]).iter_errors(content)]


@needs_schemas
@pytest.mark.parametrize("name", ["ray-cluster.yaml", "ray-job.yaml"])
def test_kuberay_knows_every_field(name: str) -> None:
    assert problems(manifest(name)) == []


def group(content: Content, index: int) -> Content:
    return content["spec"]["workerGroupSpecs"][index]  # type: ignore[no-any-return]


def container(content: Content, index: int) -> Content:
    return group(content, index)["template"]["spec"]["containers"][0]  # type: ignore[no-any-return]


MISTAKES: dict[str, tuple[Callable[[Content], object], str]] = {
    "a misspelled field": (lambda c: c["spec"].update(rayversion="2.60.0"), "'rayversion' was unexpected"),
    "a misspelled field of a pod": (lambda c: container(c, 0).update(imagePolicy="Always"), "'imagePolicy'"),
    "a number for a text": (lambda c: group(c, 0).update(resources={"CPU": 16}), "16 is not of type 'string'"),
    "a text for a number": (lambda c: group(c, 0).update(maxReplicas="12"), "'12' is not of type 'integer'"),
    "no name": (lambda c: group(c, 0).pop("groupName"), "'groupName' is a required property"),
    "an unknown autoscaler": (lambda c: c["spec"]["autoscalerOptions"].update(version="v3"), "'v3' is not one of"),
    "a hook without a command": (
        lambda c: container(c, 1)["lifecycle"]["preStop"].update(command=["true"]),
        "'command' was unexpected",
    ),
    "a size that is none": (
        lambda c: container(c, 1)["resources"]["limits"].update(memory="much"),
        "'much' does not match",
    ),
}


@needs_schemas
@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named(name: str) -> None:
    plant, message = MISTAKES[name]
    content = manifest("ray-cluster.yaml")
    plant(content)
    assert any(message in problem for problem in problems(content)), problems(content)


@needs_schemas
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("policy", "DeleteEverything", "is not one of"),
        ("condition", {"jobStatus": "STOPPED"}, "is not one of"),
        ("when", "now", "'when' was unexpected"),
    ],
)
def test_a_wrong_rule_of_cleaning_up_is_named(field: str, value: object, message: str) -> None:
    content = manifest("ray-job.yaml")
    content["spec"]["deletionStrategy"]["deletionRules"][0][field] = value
    assert any(message in problem for problem in problems(content))


def clusters() -> Iterator[Content]:
    yield manifest("ray-cluster.yaml")["spec"]
    yield manifest("ray-job.yaml")["spec"]["rayClusterSpec"]


def test_a_job_gets_the_same_cluster_as_the_one_that_stays() -> None:
    staying, of_job = clusters()
    assert staying == of_job


def test_the_pools_are_those_of_the_other_description_as_rays_own_autoscaler_reads_both() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    content = copy.deepcopy(manifest("ray-cluster.yaml"))
    content["metadata"]["namespace"] = "default"
    derived = _derive_autoscaling_config_from_ray_cr(content)
    types = {
        name: {"resources": {key: node["resources"][key] for key in node["resources"] if key != "memory"}}
        | {key: node[key] for key in ("min_workers", "max_workers", "labels")}
        for name, node in derived["available_node_types"].items()
    }
    expected = ray_cluster()["available_node_types"]
    assert types == {
        {"head": "headgroup"}.get(name, name): {"labels": node.get("labels", {})}
        | {key: node[key] for key in ("resources", "min_workers", "max_workers")}
        for name, node in expected.items()
    }
    assert derived["max_workers"] == ray_cluster()["max_workers"]
    assert derived["idle_timeout_minutes"] == ray_cluster()["idle_timeout_minutes"]


def pods(content: Content) -> dict[str, Content]:
    groups = {"head": content["headGroupSpec"]} | {group["groupName"]: group for group in content["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def test_images_accounts_and_version_are_those_of_the_other_description() -> None:
    types = ray_cluster()["available_node_types"]
    accounts = {
        account["metadata"]["name"]: account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
        for account in yaml.safe_load_all((KUBERAY / "service-accounts.yaml").read_text())
    }
    for content in clusters():
        locked = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
        assert locked is not None
        assert content["rayVersion"] == locked[1]
        for name, pod in pods(content).items():
            image = types[name].get("docker", {}).get("worker_image", ray_cluster()["docker"]["image"])
            assert [container["image"] for container in pod["containers"]] == [image]
            [account] = types[name]["node_config"]["serviceAccounts"]
            assert accounts[pod["serviceAccountName"]] == account["email"]


def test_a_pod_fits_its_machine_and_nearly_fills_it() -> None:
    for content in clusters():
        for worker in content["workerGroupSpecs"]:
            [container] = worker["template"]["spec"]["containers"]
            cpus, requests = int(worker["resources"]["CPU"]), container["resources"]["requests"]
            assert int(requests["cpu"]) == cpus - 1
            assert requests.get("nvidia.com/gpu") == worker["resources"].get("GPU")
            assert container["resources"]["limits"].get("nvidia.com/gpu") == worker["resources"].get("GPU")


def test_the_cluster_scales_by_version_2_survives_its_head_and_asks_for_a_token() -> None:
    for content in clusters():
        assert content["enableInTreeAutoscaling"] is True
        assert content["autoscalerOptions"]["version"] == "v2"
        assert content["authOptions"] == {"mode": "token"}
        assert content["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert re.fullmatch(r"[a-z0-9.-]+:\d+", content["gcsFaultToleranceOptions"]["redisAddress"])
        assert "secretKeyRef" in content["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]


def test_workers_drain_before_they_end_and_have_the_time_for_it() -> None:
    for content in clusters():
        for name in ("convert", "train"):
            pod = pods(content)[name]
            hooks = pod["containers"][0]["lifecycle"]
            python, script, *flags = hooks["preStop"]["exec"]["command"]
            assert (python, script, flags[:2]) == (
                "python",
                f"/home/ray/{Path(drain_on_preemption.__file__).name}",
                ["--now", "--deadline-seconds"],
            )
            assert int(flags[2]) < 15 < pod["terminationGracePeriodSeconds"]
            assert f"setsid python {script}" in hooks["postStart"]["exec"]["command"][-1]
            assert pod["automountServiceAccountToken"] is False


def test_a_cluster_is_removed_however_its_job_ends() -> None:
    spec = manifest("ray-job.yaml")["spec"]
    # KubeRay refuses rules together with these, and rules for workers together with the autoscaler.
    assert not {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & spec.keys()
    rules = spec["deletionStrategy"]["deletionRules"]
    assert {rule["policy"] for rule in rules} == {"DeleteCluster", "DeleteSelf"}
    removed = [rule["condition"] for rule in rules if rule["policy"] == "DeleteCluster"]
    endings = [(it.get("jobStatus"), it.get("jobDeploymentStatus")) for it in removed]
    assert endings == [("SUCCEEDED", None), ("FAILED", None), (None, "Failed")]
    assert max(condition["ttlSeconds"] for condition in removed) <= 3600


def test_the_job_is_one_of_ours_with_settings_that_it_knows() -> None:
    from lib.config.chain import PipelineConfig
    from lib.runs.command_line import parse_settings

    words = manifest("ray-job.yaml")["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.pipeline"]
    settings = parse_settings(PipelineConfig, words[3:], "pipeline")
    assert settings.num_workers == (4, 4)
