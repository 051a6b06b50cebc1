"""Every wrong input ends in its exit code and one line that names the culprit; wrong settings before Ray starts."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import build_opener, install_opener

import pytest

from lib.errors import expected_cause, in_one_line
from lib.folders.record import CompletionRecord
from lib.storage.location import Location
from tests.fakes.jobs import JobResult, job_here, run_job
from tests.fakes.records import dataset_record, model_record
from tests.fakes.sources import damage, write_source

FAILED, WRONG_SETTINGS, TOO_MANY_BAD = 1, 2, 3
NO_NETWORK = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
SWEEP_OF_LARGE = "trials: 1\nparameters: {model: {values: ['inception_v3:weights=none']}}"


@dataclass(frozen=True)
class Inputs:
    """Small folders, good and bad, below one root."""

    root: Path

    @property
    def good(self) -> Path:
        return write_source(self.root / "good", {"liver": 4, "lung": 4})

    @property
    def without_train(self) -> Path:
        source = write_source(self.root / "no_train", {"liver": 2, "lung": 2})
        shutil.rmtree(source / "train")
        return source

    @property
    def without_test(self) -> Path:
        source = write_source(self.root / "no_test", {"liver": 3, "lung": 3})
        shutil.rmtree(source / "test")
        return source

    @property
    def with_test_only_class(self) -> Path:
        source = write_source(self.root / "test_only", {"liver": 3, "lung": 3, "skin": 3})
        shutil.rmtree(source / "train" / "skin")
        return source

    @property
    def damaged(self) -> Path:
        source = write_source(self.root / "damaged", {"liver": 4, "lung": 4})
        damage(source / "train" / "liver" / "liver_train_001.tif")
        return source

    @property
    def damaged_class(self) -> Path:
        source = write_source(self.root / "damaged_class", {"liver": 4, "lung": 2})
        for file in (source / "train" / "lung").iterdir():
            damage(file)
        return source

    def empty(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        return folder

    def file(self, name: str, content: str) -> Path:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)
        return self.root / name

    def dataset(self) -> Path:
        """A folder that looks like the finished data set of another run."""
        return self.finished(dataset_record(settings={"image_size": 32}, image_size=48))

    def finished(self, record: CompletionRecord) -> Path:
        folder = self.root / "finished"
        record.write(Location(str(folder)))
        return folder


Flags = Callable[[Inputs], tuple[object, ...]]


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        name: What is wrong.
        job: The job.
        flags: The command line, given the inputs; `--output` is added.
        exit_code: Expected.
        culprit: Words that the message must have.
        before_ray: Whether it must be refused without starting Ray.
        as_command: Whether it is run as people do, in a process of its own: one of each job and each exit code.
    """

    name: str
    job: str
    flags: Flags
    exit_code: int
    culprit: tuple[str, ...]
    before_ray: bool = True
    as_command: bool = False


CASES = (
    Case("unknown flag", "convert", lambda i: ("--source", i.good, "--speed", 3), 2, ("--speed",), as_command=True),
    Case("missing required flag", "convert", lambda _: (), 2, ("--source",)),
    Case("bad value", "convert", lambda i: ("--source", i.good, "--quality", 101), 2, ("--quality", "101")),
    Case("bad type", "convert", lambda i: ("--source", i.good, "--quality", "best"), 2, ("--quality", "best")),
    Case(
        "unknown scheme",
        "convert",
        lambda _: ("--source", "ftp://lab/o"),
        2,
        ("ftp://lab/o", "gs://"),
    ),
    Case(
        "unknown recipe key",
        "convert",
        lambda i: ("--source", i.good, "--config", i.file("r.yaml", "sharpness: 3")),
        2,
        ("r.yaml", "sharpness"),
    ),
    Case(
        "bad value type in a recipe",
        "convert",
        lambda i: ("--source", i.good, "--config", i.file("r.yaml", "image_size: large")),
        2,
        ("r.yaml", "--image-size", "large"),
    ),
    Case(
        "recipe that is not YAML",
        "convert",
        lambda i: ("--source", i.good, "--config", i.file("r.yaml", "a: [1")),
        2,
        ("r.yaml", "YAML"),
    ),
    Case(
        "missing recipe", "convert", lambda i: ("--source", i.good, "--config", i.root / "none.yaml"), 2, ("none.yaml",)
    ),
    Case("missing source", "convert", lambda i: ("--source", i.root / "nowhere"), 2, ("nowhere",)),
    Case("empty source", "convert", lambda i: ("--source", i.empty("nothing")), 2, ("nothing",)),
    Case("no train folder", "convert", lambda i: ("--source", i.without_train), 2, ("train/",)),
    Case(
        "class with one image",
        "convert",
        lambda i: ("--source", write_source(i.root / "one", {"liver": 3, "lung": 1})),
        1,
        ("'lung'", "1 training image"),
        as_command=True,
    ),
    Case(
        "class only in test",
        "convert",
        lambda i: ("--source", i.with_test_only_class),
        1,
        ("'skin'", "test/"),
    ),
    Case(
        "too many damaged files",
        "convert",
        lambda i: ("--source", i.damaged, "--max-bad-fraction", 0.05),
        3,
        ("1 of 12 images", "--max-bad-fraction"),
        before_ray=False,
        as_command=True,
    ),
    Case(
        "class whose every image is damaged",
        "convert",
        lambda i: ("--source", i.damaged_class, "--max-bad-fraction", 0.5),
        1,
        ("'lung'",),
        before_ray=False,
    ),
    Case(
        "output of another run",
        "convert",
        lambda i: ("--source", i.good, "--output", i.dataset()),
        2,
        ("finished", "image_size"),
    ),
    Case(
        "output with foreign files",
        "convert",
        lambda i: ("--source", i.good, "--output", i.file("thesis/chapter.txt", "It was a dark night.").parent),
        2,
        ("thesis",),
    ),
    Case(
        "unknown model",
        "train",
        lambda i: ("--source", i.good, "--model", "vgg17"),
        2,
        ("vgg17", "vgg16"),
        as_command=True,
    ),
    Case(
        "unknown model option",
        "train",
        lambda i: ("--source", i.good, "--model", "vgg16:alpha=1"),
        2,
        ("alpha", "vgg16"),
    ),
    Case(
        "unknown model in a pipeline",
        "pipeline",
        lambda i: ("--source", i.good, "--models", "cnn", "resnet"),
        2,
        ("'resnet'",),
    ),
    Case(
        "pipeline without test images",
        "pipeline",
        lambda i: ("--source", i.without_test),
        1,
        ("no test images", "`convert` and `train`"),
        as_command=True,
    ),
    Case(
        "images too small for the network",
        "train",
        lambda i: ("--source", i.good, "--model", "inception_v3:weights=none", "--image-size", 64),
        2,
        ("images of 64 px (see --image-size)", "inception_v3", "75"),
    ),
    Case(
        "batch smaller than the workers",
        "train",
        lambda i: ("--source", i.good, "--batch-size", 2, "--num-workers", 3),
        2,
        ("--batch-size 2", "--num-workers 3"),
    ),
    Case("two inputs", "train", lambda i: ("--source", i.good, "--dataset", i.dataset()), 2, ("--dataset", "--source")),
    Case("no input", "train", lambda _: (), 2, ("--dataset", "--source")),
    Case(
        "GPU that is not there",
        "train",
        lambda i: ("--source", i.good, "--image-size", 32, "--use-gpu"),
        2,
        ("--use-gpu", "no GPU on this machine"),
        before_ray=False,
    ),
    Case(
        "incomplete dataset to train on",
        "train",
        lambda i: ("--dataset", i.empty("half")),
        2,
        ("half", "dataset.json", "jobs.convert"),
    ),
    Case(
        "dataset of another image size",
        "train",
        lambda i: ("--dataset", i.dataset(), "--image-size", 64),
        2,
        ("--image-size is 64", "48 px"),
    ),
    Case(
        "dataset of images too small for the network",
        "train",
        lambda i: ("--dataset", i.dataset(), "--model", "inception_v3:weights=none"),
        2,
        ("images of 48 px", "inception_v3", "75"),
    ),
    Case(
        "dataset of images too small for a network of a sweep",
        "train",
        lambda i: ("--dataset", i.dataset(), "--sweep", i.file("small.yaml", SWEEP_OF_LARGE)),
        2,
        ("images of 48 px", "inception_v3", "75"),
    ),
    Case(
        "missing earlier model",
        "train",
        lambda i: ("--source", i.good, "--model", f"saved:path={i.root}/half"),
        2,
        ("half", "model.json"),
    ),
    Case(
        "missing weights file",
        "train",
        lambda i: ("--source", i.good, "--model", f"vgg16:weights={i.root}/none.h5"),
        2,
        ("none.h5",),
    ),
    Case(
        "weights file that does not fit",
        "train",
        lambda i: ("--source", i.good, "--model", f"mobilenet:weights={i.file('wrong.weights.h5', 'no weights')}"),
        1,
        ("wrong.weights.h5", "do not fit mobilenet"),
        before_ray=False,
    ),
    Case(
        "step size that diverges",
        "train",
        lambda i: ("--source", i.good, "--learning-rate", 1e30, "--batch-size", 2, "--image-size", 32),
        1,
        ("diverged: the loss was NaN", "--learning-rate"),
        before_ray=False,
    ),
    Case(
        "too many damaged files in a stream",
        "train",
        lambda i: ("--source", i.damaged, "--max-bad-fraction", 0.05),
        3,
        ("1 of 8 images", "--max-bad-fraction"),
        before_ray=False,
    ),
    Case(
        "ImageNet weights that cannot be had",
        "train",
        lambda i: ("--source", i.good, "--model", "vgg16"),
        1,
        ("vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "KERAS_HOME", "weights=none"),
    ),
    Case(
        "incomplete model to evaluate",
        "evaluate",
        lambda i: ("--model-dir", i.empty("half"), "--dataset", i.dataset()),
        2,
        ("half", "model.json", "jobs.train"),
        as_command=True,
    ),
    Case(
        "incomplete dataset to evaluate on",
        "evaluate",
        lambda i: ("--dataset", i.empty("half"), "--model-dir", i.finished(model_record())),
        2,
        ("half", "dataset.json", "jobs.convert"),
    ),
    Case(
        "incomplete model to predict with",
        "predict",
        lambda i: ("--model-dir", i.empty("half"), "--source", i.good),
        2,
        ("half", "model.json", "jobs.train"),
        as_command=True,
    ),
    Case(
        "incomplete evaluation to report",
        "report",
        lambda i: ("--evaluations", i.empty("half")),
        2,
        ("half", "evaluation.json", "jobs.evaluate"),
        as_command=True,
    ),
)


@dataclass(frozen=True)
class Run:
    """What a job made of a case."""

    result: JobResult
    started_ray: bool


def run_case(case: Case, root: Path) -> Run:
    ray_folder = Path(tempfile.mkdtemp(dir=os.environ["RAY_TMPDIR"]))
    try:
        environment = {"RAY_TMPDIR": str(ray_folder)} | NO_NETWORK
        return Run(run_job(case.job, *flags_of(case, root), env=environment), any(ray_folder.iterdir()))
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


def flags_of(case: Case, root: Path) -> tuple[object, ...]:
    flags = case.flags(Inputs(root))
    return flags if "--output" in flags else (*flags, "--output", root / "output")


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", [case for case in CASES if case.as_command], ids=name_of)
def test_a_command_refuses_it_with_its_exit_code_and_one_line_that_names_the_culprit(
    case: Case, tmp_path: Path
) -> None:
    run = run_case(case, tmp_path)
    assert run.result.exit_code == case.exit_code, run.result.stderr
    assert run.result.stdout == ""
    lines = run.result.stderr.splitlines()
    assert run.started_ray != case.before_ray
    if case.before_ray:
        assert len(lines) == 1, run.result.stderr
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], run.result.stderr
    assert "Traceback" not in run.result.stderr
    for words in case.culprit:
        assert words in lines[-1]


@pytest.mark.parametrize("case", [case for case in CASES if not case.as_command and case.before_ray], ids=name_of)
def test_it_is_refused_in_the_same_way_before_ray_starts(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: pytest.fail("Ray is asked for"))
    assert_refused(case, tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if not case.as_command and not case.before_ray], ids=name_of)
def test_what_takes_longer_to_find_out_is_refused_in_the_same_way(case: Case, tmp_path: Path) -> None:
    assert_refused(case, tmp_path)


@contextmanager
def without_network() -> Iterator[None]:
    """No way out of this machine. urllib takes the proxies of a process where it is first used, and keeps them."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in NO_NETWORK.items():
                patch.setenv(name, value)
            install_opener(build_opener())
            yield
    finally:
        install_opener(build_opener())


def assert_refused(case: Case, root: Path) -> None:
    """What a job does in this process with a case ends in the error that a command makes its exit code and line of."""
    with without_network(), pytest.raises(Exception, match=re.escape(case.culprit[0])) as failure:
        job_here(case.job, *flags_of(case, root))
    refusal = expected_cause(failure.value)
    assert refusal is not None
    assert refusal.exit_code == case.exit_code
    for words in case.culprit:
        assert words in in_one_line(failure.value)
