"""The whole chain on a tiny source, run once for many tests."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.jobs import JobResult, run_job
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
MODELS = ("cnn", "mobilenet:alpha=0.25,weights=none", "saved:path={output}/models/cnn")


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
    def run(cls, source: Path, output: Path, *more_models: str) -> "Chain":
        """Run the pipeline."""
        models = [model.format(output=output) for model in (*MODELS, *more_models)]
        flags = ("--source", source, "--output", output, "--models", *models, "--layout", "folder", *SETTINGS)
        with tempfile.TemporaryDirectory() as folder:
            result = run_job("pipeline", *flags, env=noting_reads(Path(folder), output / "dataset" / "images"))
            return cls(source, output, result, noted_reads(Path(folder)))

    def again(self, *more_models: str) -> "Chain":
        """Run the same command once more, perhaps with further models."""
        return Chain.run(self.source, self.output, *more_models)

    def file_times(self, *folders: str) -> dict[str, int]:
        """When each file below some of the output's folders was written."""
        files = (file for folder in folders for file in (self.output / folder).rglob("*") if file.is_file())
        return {file.relative_to(self.output).as_posix(): file.stat().st_mtime_ns for file in files}
