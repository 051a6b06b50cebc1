"""`--help` is read from its top: headings, the most needed first; and it comes at once, without what does the work."""

import subprocess
import sys
from pathlib import Path

import pytest

from lib.config.base import Group, JobConfig
from lib.config.chain import PipelineConfig
from lib.config.fitting import TrainConfig
from lib.config.images import TiffPolicy
from lib.errors import SettingsError
from lib.runs.command_line import parse_settings
from lib.runs.help import grouped
from lib.storage.location import Location
from lib.training.trainer import check_training, open_source, with_size_of_dataset
from tests.fakes.records import dataset_record
from tests.unit.test_documents import JOBS

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = {"ray", "tensorflow", "keras", "pandas", "pyarrow", "sklearn", "matplotlib", "fsspec", "tyro"}


@pytest.mark.parametrize("kind", JOBS.values())
def test_every_setting_stands_under_one_heading_and_headings_in_their_order(kind: type[JobConfig]) -> None:
    groups = grouped(kind)
    assert sorted(name for names in groups.values() for name in names) == sorted(kind.model_fields)
    assert list(groups) == [group for group in Group if group in groups]


@pytest.mark.parametrize("kind", JOBS.values())
def test_what_must_be_given_stands_first(kind: type[JobConfig]) -> None:
    [first, *_] = grouped(kind).items()
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    assert first[0] is Group.FIRST
    assert sorted(first[1][: len(needed)]) == sorted(needed)


def test_a_pipeline_begins_with_what_everybody_sets_and_ends_with_tiffs_and_clusters() -> None:
    groups = grouped(PipelineConfig)
    assert groups[Group.FIRST][:3] == ["source", "output", "models"]
    assert set(groups[Group.FIRST][3:]) == {"epochs", "image_size", "num_workers", "use_gpu"}
    assert list(groups)[-2:] == [Group.TIFF, Group.CLUSTER]
    assert set(groups[Group.TIFF]) == set(TiffPolicy.model_fields)


def test_help_shows_headings_flags_words_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(PipelineConfig, ["--help"], "tissue pipeline")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: tissue pipeline --source TEXT --output TEXT [...]"
    assert lines.index(Group.FIRST) < lines.index("  --epochs INT  (default: 30)") < lines.index(Group.IMAGES)
    assert "  --source TEXT  (required)" in lines
    assert "  --models TEXT ...  (default: cnn)" in lines
    assert "  --use-gpu, --no-use-gpu  (default: no)" in lines
    assert "  --maps {pca,tsne,umap} ...  (default: pca tsne)" in lines
    assert "  --tiff-percentiles FLOAT FLOAT  (default: 0.1 99.9)" in lines
    assert max(map(len, lines)) <= 100


def test_help_of_all_jobs_imports_nothing_that_takes_seconds() -> None:
    program = (
        "import contextlib, runpy, sys\n"
        f"for job in {list(JOBS)}:\n"
        "    sys.argv = [job, '--help']\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        runpy.run_module(f'jobs.{job}', run_name='__main__', alter_sys=True)\n"
        f"print(*sorted({SLOW_TO_IMPORT} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("What nearly every run sets") == len(JOBS)
    assert done.stderr.split() == []


def test_what_was_not_given_is_known_as_such(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("quality: 90")
    flags = ["--dataset=/d", "--output", "/o", "--no-use-gpu", "--batch_size", "8", "--config", str(recipe)]
    settings = parse_settings(TrainConfig, flags, "tissue train")
    assert settings.model_fields_set == {"dataset", "output", "use_gpu", "batch_size", "quality"}
    assert (settings.image_size, settings.batch_size, settings.quality) == (180, 8, 90)


def test_training_takes_the_image_size_of_its_dataset_unless_it_is_told_another(tmp_path: Path) -> None:
    dataset_record(image_size=96).write(Location(str(tmp_path)))
    asked = TrainConfig(output="/o", dataset=str(tmp_path))
    settled = with_size_of_dataset(asked)
    assert (settled.image_size, settled.identity()["image_size"]) == (96, 96)
    assert with_size_of_dataset(TrainConfig(output="/o", source="/s")).image_size == 180
    told = TrainConfig(output="/o", dataset=str(tmp_path), image_size=180)
    with pytest.raises(SettingsError, match=r"--image-size is 180, but .* holds images of 96 px"):
        open_source(with_size_of_dataset(told))


def test_a_dataset_of_small_images_is_not_said_to_be_a_wrong_flag(tmp_path: Path) -> None:
    dataset_record(image_size=64).write(Location(str(tmp_path)))
    settled = with_size_of_dataset(TrainConfig(output="/o", dataset=str(tmp_path), model="inception_v3:weights=none"))
    with pytest.raises(SettingsError, match=r"^images of 64 px .* too small for inception_v3"):
        check_training(settled)
