"""What the pages for people say: their links lead somewhere, their commands are taken, their tables can be read."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lib.config.base import JobConfig
from lib.config.chain import DoctorConfig, PipelineConfig, ReportConfig, StatusConfig
from lib.config.conversion import ConvertConfig, SampleConfig
from lib.config.fitting import SweepConfig, TrainConfig
from lib.config.prediction import EvaluateConfig, ExportConfig, PredictConfig
from lib.ingest.tiff.refusals import REFUSAL_CODES
from lib.models.spec import parse_spec
from lib.runs.command_line import parse_settings

ROOT = Path(__file__).parents[2]
FOR_USERS = [ROOT / "README.md", *sorted((ROOT / "jobs/docs").glob("*.md"))]
PAGES = [*FOR_USERS, *sorted((ROOT / "lib").glob("*.md")), *sorted((ROOT / "cluster").rglob("*.md"))]
LONGEST_CELL = 160
LONGEST_README, LONGEST_PAGE = 120, 90
JOBS: dict[str, type[JobConfig]] = {
    "convert": ConvertConfig,
    "doctor": DoctorConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "pipeline": PipelineConfig,
    "predict": PredictConfig,
    "report": ReportConfig,
    "sample": SampleConfig,
    "status": StatusConfig,
    "train": TrainConfig,
}
FLAGS = {"config", "help"} | {name.replace("_", "-") for kind in JOBS.values() for name in kind.model_fields}


def name_of(page: object) -> str:
    return page.relative_to(ROOT).as_posix() if isinstance(page, Path) else str(page)


def shell_blocks(page: Path) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The jobs in the shell blocks of a page, each with its flags."""
    lines = [line for block in shell_blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    jobs = [line for line in lines if "jobs." in line or "submit.sh" in line or re.match(TISSUE, line)]
    parted = [shlex.split(line, comments=True) for line in jobs]
    found = []
    for parts in parted:
        place = next(number for number, part in enumerate(parts) if re.search(r"jobs\.\w+$|submit\.sh$|^tissue$", part))
        named = parts[place].rpartition("jobs.")[2] if "jobs." in parts[place] else parts.pop(place + 1)
        found.append((named, parts[place + 1 :]))
    return found


TISSUE = r"tissue (?!-|completion)"
"""The beginning of a line that runs a job by the installed command."""
COMMANDS = [(page, job, flags) for page in PAGES for job, flags in commands(page)]


def test_the_pages_give_commands_of_nearly_every_job() -> None:
    assert {job for _, job, _ in COMMANDS} >= {"pipeline", "convert", "train", "predict", "doctor"}


@pytest.mark.parametrize(("page", "job", "flags"), COMMANDS, ids=name_of)
def test_a_command_on_a_page_is_taken_by_its_job(page: Path, job: str, flags: list[str]) -> None:
    if flags == ["..."]:
        assert job in JOBS
        return
    settings = parse_settings(JOBS[job], flags, f"python -m jobs.{job}")
    for spec in getattr(settings, "models", []):
        parse_spec(spec)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shell_blocks_are_well_formed(page: Path) -> None:
    for block in shell_blocks(page):
        subprocess.run(["bash", "-n", "-c", block], check=True)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", FOR_USERS, ids=name_of)
def test_every_flag_that_a_page_names_is_a_setting_of_a_job(page: Path) -> None:
    spans = re.findall(r"`((?:python -m jobs\.\w+ )?--[^`]+)`", page.read_text())
    named = {flag for span in spans for flag in re.findall(r"--([a-z][a-z-]+)", span)}
    assert named - FLAGS == set()


@pytest.mark.parametrize("page", FOR_USERS, ids=name_of)
def test_every_job_and_make_target_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"jobs\.([a-z]+)", text)) <= set(JOBS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"[`\n]make ([a-z]+)", text)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_table_cell_is_longer_than_two_lines(page: Path) -> None:
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert [cell for row in rows for cell in row.strip("|").split(" | ") if len(cell.strip()) > LONGEST_CELL] == []


@pytest.mark.parametrize("page", FOR_USERS, ids=name_of)
def test_a_page_is_short_enough_to_be_read(page: Path) -> None:
    longest = LONGEST_README if page.name == "README.md" else LONGEST_PAGE
    assert len(page.read_text().splitlines()) <= longest


def test_the_readme_leads_to_every_page_and_names_every_job() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"(jobs/docs/{page.name})" in text for page in FOR_USERS[1:])
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(JOBS)


def test_every_reason_for_a_quarantined_file_is_explained() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "jobs/docs/tiffs.md").read_text(), re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    assert named == set(REFUSAL_CODES)


def test_the_names_of_models_and_the_sweep_on_the_page_are_taken() -> None:
    text = (ROOT / "jobs/docs/models-and-training.md").read_text()
    [sweep] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    SweepConfig.model_validate(yaml.safe_load(sweep))
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    specs = [spec for row in rows for spec in re.findall(r"`([^`]+)`", row)]
    assert len(specs) > len(rows) - 1 > 0
    for spec in specs:
        assert parse_spec(spec.replace("URI", "/some/where"))


def _found(path: str) -> Iterator[Path]:
    for name in (path, f"{path}.py", f"lib/**/{path}"):
        yield from [*(ROOT / "lib").glob(name), *ROOT.glob(name)]


def test_every_file_and_name_in_the_tour_of_the_code_is_there() -> None:
    text = (ROOT / "lib/README.md").read_text()
    rooms = "|".join(sorted(folder.name for folder in (ROOT / "lib").iterdir() if folder.is_dir()))
    table = [line for line in text.splitlines() if line.startswith("| ")]
    paths = re.findall(rf"`((?:{rooms}|tests|jobs)/[\w/.*]*)`", text) + re.findall(r"`(\w+\.py)`", text)
    assert len(table) > 20
    assert len(paths) > 30
    lost = [path for path in paths if not any(_found(path))]
    assert [path for path in lost if path != "jobs/NAME.py"] == []
    source = "".join(file.read_text() for file in (ROOT / "lib").rglob("*.py"))
    constants = set(re.findall(r"`([A-Z][A-Z_]{3,})`", text))
    assert constants
    assert [name for name in constants if not re.search(rf"^{name}\b", source, re.MULTILINE)] == []


def test_the_walk_in_the_tour_goes_through_modules_that_are_there() -> None:
    [walk] = re.findall(r"## The walk of one TIFF\n\n```\n(.*?)```", (ROOT / "lib/README.md").read_text(), re.DOTALL)
    steps = re.findall(r"^ \|  ([a-z]+/[\w/]+)", walk, re.MULTILINE)
    assert len(steps) > 6
    assert [step for step in steps if not (ROOT / "lib" / f"{step}.py").exists()] == []
