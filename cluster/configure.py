"""Write what follows from cluster/settings.env into ray-cluster.yaml and the manifests for Kubernetes.

python -m cluster.configure           # after editing cluster/settings.env
python -m cluster.configure --check   # whether they agree: part of `make check`
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "cluster/settings.env"
PATTERNS = {
    "PROJECT": r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "ZONE": r"[a-z]+-[a-z]+\d+-[a-z]",
    "SOURCE_BUCKET": r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]",
    "RESULTS_BUCKET": r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]",
    "REDIS_ADDRESS": r"[a-z0-9.-]+:\d+",
}
"""What each setting looks like, by Google's rules for names."""


def described_files() -> list[Path]:
    """The files that hold what follows from the settings."""
    return [ROOT / "ray-cluster.yaml", *sorted((ROOT / "cluster/kuberay").glob("*.yaml"))]


def read_settings(text: str) -> dict[str, str]:
    """Read `NAME=value` lines.

    Raises:
        ValueError: If a setting is missing, unknown, or not what Google accepts.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    settings = {name: value for name, _, value in (line.partition("=") for line in lines)}
    if settings.keys() != PATTERNS.keys():
        raise ValueError(f"settings.env has {sorted(settings)}, expected {sorted(PATTERNS)}")
    for name, pattern in PATTERNS.items():
        if not re.fullmatch(pattern, settings[name]):
            raise ValueError(f"settings.env: {name}={settings[name]} does not look like one; expected {pattern}")
    return settings


def apply_settings(text: str, settings: dict[str, str]) -> str:
    """Put the settings' values where a description has them; everything else stays as it is.

    A bucket is told by the folder after it: `gs://BUCKET/organs` are the images, `gs://BUCKET/results` the results.
    """
    project, zone = settings["PROJECT"], settings["ZONE"]
    region = zone.rsplit("-", 1)[0]
    for pattern, value in (
        (r"(?<=project_id: )\S+", project),
        (r"(?<=region: )\S+", region),
        (r"(?<=availability_zone: )\S+", zone),
        (r"[a-z0-9-]+-docker\.pkg\.dev(?!/)", f"{region}-docker.pkg.dev"),
        (r"[a-z0-9-]+-docker\.pkg\.dev/[^/]+/", f"{region}-docker.pkg.dev/{project}/"),
        (r"(?<=@)\S+(?=\.iam\.gserviceaccount\.com)", project),
        (r"(?<=gs://)[^/\s]+(?=/organs)", settings["SOURCE_BUCKET"]),
        (r"(?<=gs://)[^/\s]+(?=/results)", settings["RESULTS_BUCKET"]),
        (r"(?<=redisAddress: )\S+", settings["REDIS_ADDRESS"]),
    ):
        text = re.sub(pattern, _constant(value), text)
    return text


def _constant(value: str) -> Callable[[re.Match[str]], str]:
    return lambda _: value


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` name those that would change; 1 if there are any, 2 for a wrong setting."""
    try:
        settings = read_settings(SETTINGS.read_text())
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    changed = {file: apply_settings(file.read_text(), settings) for file in described_files()}
    changed = {file: text for file, text in changed.items() if text != file.read_text()}
    for file, text in changed.items():
        if "--check" in arguments:
            sys.stderr.write(f"error: {file.relative_to(ROOT)} differs from cluster/settings.env; ")
            sys.stderr.write("run python -m cluster.configure\n")
        else:
            file.write_text(text)
            sys.stderr.write(f"wrote {file.relative_to(ROOT)}\n")
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
