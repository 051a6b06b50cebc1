"""The wheel, in a fresh environment: `tissue` works there, and nothing called `lib` or `jobs` is installed."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import JOBS
from lib import __version__
from tests.fakes.wheel import NO_NETWORK, ROOT, borrow_packages, build_wheel, pip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = build_wheel(tmp_path_factory.mktemp("wheel"))
    assert [left.name for left in ROOT.iterdir() if left.name == "build" or left.suffix == ".egg-info"] == []
    return file


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a new environment that has the wheel, and borrows everything else from this one."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    borrow_packages(environment)
    pip("--python", environment / "bin/python", "install", wheel, *NO_NETWORK)
    return environment / "bin"


def run(program: Path, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False)


def summary_of(program: Path, *arguments: object, folder: Path) -> dict[str, Any]:
    done = run(program, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def imported(code: str) -> set[str]:
    """The packages that some code imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_it_holds_one_package_with_jobs_recipes_and_templates(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        code = {name: file.read(name).decode() for name in names if name.endswith(".py")}
    assert {name.partition("/")[0] for name in names} == {"tissue", f"tissue_training-{__version__}.dist-info"}
    ours = [file.relative_to(ROOT).as_posix() for top in ("lib", "jobs") for file in (ROOT / top).rglob("*.py")]
    assert sorted(code) == sorted(f"tissue/{name.removeprefix('lib/')}" for name in ours)
    for name in ("jobs/recipes/notebook.yaml", "jobs/docs/tiffs.md", "report/templates/report.html.j2", "py.typed"):
        assert f"tissue/{name}" in names
    assert [name for name, text in code.items() if imported(text) & {"lib", "jobs", "tests", "cluster"}] == []


def test_its_command_draws_the_sample_and_converts_it(binaries: Path, tmp_path: Path) -> None:
    tissue = binaries / "tissue"
    said = run(tissue, "--help", folder=tmp_path).stdout
    assert said.startswith("usage: tissue JOB")
    assert all(job in said for job in JOBS)
    assert "source <(tissue completion bash)" in said
    flags = ("--train-per-class", 2, "--test-per-class", 1)
    assert summary_of(tissue, "sample", "--output", "sample", *flags, folder=tmp_path)["images"] == 36
    converted = ("convert", "--source", "sample", "--output", "dataset", "--image-size", 32)
    assert summary_of(tissue, *converted, folder=tmp_path)["accepted"] == 36
    (tmp_path / "lib.py").write_text("raise ImportError('the user has a lib of its own')")
    again = "from tissue import convert; print(len(convert(source='sample', output='dataset', image_size=32).manifest))"
    assert run(binaries / "python", "-c", again, folder=tmp_path).stdout.split() == ["37"]  # and sample.json
    refused = run(tissue, "train", "--dataset", "sample", "--output", "model", folder=tmp_path)
    assert (refused.returncode, "make it with `tissue convert`" in refused.stderr) == (2, True), refused.stderr
