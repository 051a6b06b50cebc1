"""The notebooks for Colab: their cells, one after the other, install the wheel, and end in a report."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.drive import drive_server
from tests.fakes.jobs import FOREIGN_VARIABLES
from tests.fakes.sources import write_source
from tests.fakes.wheel import ROOT, build_wheel

NOTEBOOKS = sorted((ROOT / "jobs/notebooks").glob("*.ipynb"))
COLAB = {
    "IPython/__init__.py": "",
    "IPython/display.py": "HTML = str\ndef display(page): open('shown.html', 'w').write(page)\n",
    "google/colab/__init__.py": "",
    "google/colab/auth.py": "import os\ndef authenticate_user():\n"
    "    os.environ['GOOGLE_APPLICATION_CREDENTIALS'] = os.environ['LOGIN']\n",
}
"""What the cells take of Colab: a login that programs find, and a place where a page is shown."""
SETTINGS = {"MODELS": "cnn", "EPOCHS": 1}


def code_cells(notebook: Path) -> list[str]:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def filled_in(cell: str, settings: Mapping[str, object]) -> str:
    """A cell whose form was filled in."""
    for name, value in settings.items():
        cell = re.sub(rf"^{name} = .*$", f"{name} = {value!r}", cell, flags=re.MULTILINE)
    return cell


def run_cells(notebook: Path, folder: Path, settings: Mapping[str, object], env: Mapping[str, str]) -> str:
    """Run the cells in one process; the environment that they make borrows all but the wheel from this one.

    Returns:
        What they printed.
    """
    for name, content in COLAB.items():
        file = folder / "colab" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    install, *others = [filled_in(cell, settings) for cell in code_cells(notebook)]
    borrow = "from tests.fakes.wheel import borrow_packages; borrow_packages(ENVIRONMENT)"
    program = "\n".join([f"import sys; sys.path[:0] = ['colab', {str(ROOT)!r}]", install, borrow, *others])
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    of_colab = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONPATH": str(folder / "nowhere")}
    kept |= of_colab | {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", **env}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_three_cells_of_code_and_no_outputs(notebook: Path) -> None:
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * 3
    titles = [re.match(r"# @title (\d)\. ", cell) for cell in code_cells(notebook)]
    assert [title and title[1] for title in titles] == ["1", "2", "3"]
    for cell in code_cells(notebook):
        compile(cell, notebook.name, "exec")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_in_colab_a_folder_of_drive_becomes_a_report_and_a_second_run_finds_it(wheel: Path, tmp_path: Path) -> None:
    source = write_source(tmp_path / "local", {"liver": 6, "lung": 6}, test_per_class=2)
    with drive_server() as drive:
        root, shared = drive.add_folder("organs"), drive.add_drive("Histology")
        for file in sorted(source.rglob("*.tif")):
            drive.add_file(file.relative_to(source).as_posix(), file.read_bytes(), root)
        places = {
            "SOURCE": f"gdrive://{root}",
            "OUTPUT": f"gdrive://{shared}/results",
            "PACKAGE": str(wheel),
            "GPU": False,
        }
        key = drive.write_key(tmp_path / "key.json")
        environment = {**drive.environment(key), "LOGIN": str(key)}
        environment.pop("GOOGLE_APPLICATION_CREDENTIALS")
        notebook = ROOT / "jobs/notebooks/tissue_in_colab.ipynb"
        said = run_cells(notebook, tmp_path, SETTINGS | places, environment)
        assert '"job": "pipeline"' in said
        assert "cnn is right on" in (tmp_path / "shown.html").read_text()
        (tmp_path / "shown.html").unlink()
        again = run_cells(notebook, tmp_path, SETTINGS | places, environment)
    assert "already complete" in again
    assert "train cnn" not in again
    assert (tmp_path / "shown.html").exists()


@pytest.mark.parametrize("gpu", [True, False])
def test_an_uploaded_zip_is_unpacked_and_its_folder_of_classes_is_what_a_pipeline_gets(
    gpu: bool, tmp_path: Path
) -> None:
    write_source(tmp_path / "local" / "organs", {"liver": 2, "lung": 2}, test_per_class=1)
    shutil.make_archive(str(tmp_path / "organs"), "zip", tmp_path / "local")
    stand_in = (
        tmp_path / "tissue-environment" / "bin" / "tissue"
    )  # as if installed: the other notebook runs the real one
    (tmp_path / "tissue-environment" / "lib" / "python3" / "site-packages").mkdir(parents=True)
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "$@"\nmkdir -p "$5/report"\necho "what $3 gave" > "$5/report/report.html"\n')
    stand_in.chmod(0o755)
    places = {"SOURCE": "organs.zip", "OUTPUT": "results", "GPU": gpu}
    said = run_cells(ROOT / "jobs/notebooks/tissue_with_a_folder.ipynb", tmp_path, SETTINGS | places, {})
    flags = ["--source", "unpacked/organs", "--output", "results", "--models", "cnn", "--epochs", "1"]
    assert said.split() == ["pipeline", *flags, *(["--use-gpu"] if gpu else [])]
    assert (tmp_path / "unpacked/organs/train/liver").is_dir()
    assert (tmp_path / "shown.html").read_text() == "what unpacked/organs gave\n"
