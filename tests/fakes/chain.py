"""The whole chain on a tiny source, run once for many tests."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.fakes.jobs import JobResult, job_here, run_job
from tests.fakes.reads import noted_reads, noting_reads

SETTINGS = (
    *("--image-size", 48),
    *("--epochs", 8),
    *("--batch-size", 8),
    *("--learning-rate", 0.003),
    *("--validation-fraction", 0.1),
    *("--max-bad-fraction", 0.1),
    *("--images-per-shard", 8),
)
"""27 training images, 3 to validate, 8 to test; 2 are refused, and 2 files are no images."""
MODELS = ("cnn", "mobilenet:alpha=0.25,weights={weights}", "saved:path={output}/models/cnn")


@dataclass(frozen=True)
class Chain:
    """A finished pipeline.

    Attributes:
        source: Its TIFFs.
        output: Its folder.
        result: How the command ended.
        shard_reads: How often it opened each shard of the dataset.
    """

    source: Path
    output: Path
    result: JobResult
    shard_reads: "Counter[str]"

    @classmethod
    def of(cls, source: Path, folder: Path) -> "Chain":
        """The pipeline below a folder, run as a command unless another test process has done so."""
        kept, reads, output = folder / "result.json", folder / "reads", folder / "output"
        if not kept.exists():
            reads.mkdir()
            _write_weights(_weights(output))
            noting = noting_reads(reads, output / "dataset" / "images")
            kept.write_text(json.dumps(asdict(run_job("pipeline", *_flags(source, output), env=noting))))
        return cls(source, output, JobResult(**json.loads(kept.read_text())), noted_reads(reads))

    @property
    def keywords(self) -> dict[str, Any]:
        """Its settings, as they are given in Python."""
        flags, values = SETTINGS[::2], SETTINGS[1::2]
        named = {str(flag)[2:].replace("-", "_"): value for flag, value in zip(flags, values, strict=True)}
        folders = {"source": str(self.source), "output": str(self.output)}
        return folders | named | {"models": _models(self.output), "layout": "folder"}

    def again(self, *more_models: str) -> dict[str, Any]:
        """Do the same once more in this process, perhaps with further models; returns the summary."""
        return job_here("pipeline", *_flags(self.source, self.output, *more_models))

    def file_times(self, *folders: str) -> dict[str, int]:
        """When each file below some of the output's folders was written."""
        files = (file for folder in folders for file in (self.output / folder).rglob("*") if file.is_file())
        return {file.relative_to(self.output).as_posix(): file.stat().st_mtime_ns for file in files}


def _flags(source: Path, output: Path, *more_models: str) -> tuple[object, ...]:
    models = (*_models(output), *(model.format(output=output) for model in more_models))
    return ("--source", source, "--output", output, "--models", *models, "--layout", "folder", *SETTINGS)


def _models(output: Path) -> tuple[str, ...]:
    return tuple(model.format(output=output, weights=_weights(output)) for model in MODELS)


def _weights(output: Path) -> Path:
    return output.with_name("mobilenet.weights.h5")


def _write_weights(file: Path) -> None:
    from tests.fakes.networks import write_random_weights  # Keras takes seconds, and most processes find a chain

    write_random_weights(file, "MobileNet", alpha=0.25)
