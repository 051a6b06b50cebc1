"""The export folder: a trained model as a file that other programs run, checked against `model.keras`."""

import hashlib
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from lib.config.prediction import ExportConfig
from lib.errors import SettingsError, TissueError, one_line
from lib.folders.export_folder import ExportedFile, ExportRecord, PrecisionChange, TensorRecord
from lib.folders.model import ModelRecord
from lib.folders.output import OutputFolder
from lib.models.export.agreement import (
    PROBABILITY_TOLERANCE,
    Agreement,
    check_images,
    measure_agreement,
    run_in_parts,
)
from lib.models.export.runtimes import (
    RUNTIMES,
    SIGNATURE,
    FloatArray,
    Outputs,
    UInt8Array,
    require_packages,
    runtime_versions,
)
from lib.models.saved import load_network
from lib.models.trust import read_trusted
from lib.storage.location import Location

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

FILES = {"savedmodel": "saved_model", "onnx": "model.onnx", "tflite": "model.tflite"}
"""By format: the file in the export folder; for `savedmodel` a folder."""


def export_model(config: ExportConfig) -> ExportRecord:
    """Write a model with its preprocessing in another format, unless this very export is already complete.

    The file is opened with the runtime of its format and has to say the same as `model.keras` before it is put into the
    folder. How far a quantised model is from it is measured and stated instead.

    Raises:
        SettingsError: If a package is not installed, the model folder is not complete, the model rests on an ONNX
            network, or the output is another run's.
        TissueError: If the format cannot express the model, or the exported model says something else.
    """
    require_packages(config.format)
    model = read_trusted(Location(config.model_dir), trusts_saved_model=config.trust_saved_model)
    inputs = {"model_completed_at": model.completed_at}
    folder = OutputFolder(Location(config.output), ExportRecord, config.identity(), inputs)
    return folder.once(lambda: _export(config, model, folder))


def _export(config: ExportConfig, model: ModelRecord, folder: OutputFolder[ExportRecord]) -> ExportRecord:
    started = time.monotonic()
    network = load_network(Location(config.model_dir), trusts_saved_model=config.trust_saved_model)
    _refuse_onnx(config, network)
    images = check_images(model.image_size)
    precision = _compute_in_float32(network, images)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / FILES[config.format]
        outputs = _write_and_run(config, network, file, images)
        agreement = measure_agreement(_logits(network, images), outputs)
        _judge(config, agreement)
        folder.location.upload_folder(Path(scratch))
        files = _files(Path(scratch))
    return folder.complete(
        ExportRecord(
            name=model.name,
            spec=model.spec,
            model_dir=config.model_dir,
            format=config.format,
            quantize=config.quantize,
            class_names=model.class_names,
            image_size=model.image_size,
            image_policy=model.image_policy,
            signature=None if config.format == "onnx" else SIGNATURE,
            input=_input(model),
            outputs=_outputs(model),
            file=FILES[config.format],
            files=files,
            size_bytes=sum(file.size_bytes for file in files),
            agreement=agreement.record,
            precision=precision,
            runtime=runtime_versions(config.format),
            seconds=round(time.monotonic() - started, 3),
        )
    )


def _refuse_onnx(config: ExportConfig, network: "keras.Model") -> None:
    from lib.models.export.formats import runs_onnx

    if runs_onnx(network):
        raise SettingsError(
            f"{config.model_dir} rests on an ONNX network, which no export can hold; use the .onnx file "
            "itself, and the layers after it in model.keras"
        )


def _input(model: ModelRecord) -> TensorRecord:
    shape: list[JsonValue] = ["n", model.image_size, model.image_size, 3]
    content = "RGB, 0 to 255; the preprocessing is inside the model"
    return TensorRecord(name="images", dtype="uint8", shape=shape, content=content)


def _outputs(model: ModelRecord) -> list[TensorRecord]:
    contents = {
        "probabilities": "softmax of the logits, in the order of class_names",
        "logits": "in the order of class_names",
    }
    shape: list[JsonValue] = ["n", len(model.class_names)]
    return [TensorRecord(name=name, dtype="float32", shape=shape, content=text) for name, text in contents.items()]


def _compute_in_float32(network: "keras.Model", images: UInt8Array) -> PrecisionChange | None:
    """Switch a network of mixed precision to float32, and say what that changes; None if it computes in float32."""
    from lib.models.export.formats import compute_in_float32, mixed_policy

    policy = mixed_policy(network)
    if policy is None:
        return None
    before = _logits(network, images)
    compute_in_float32(network)
    change = measure_agreement(before, Outputs.of_logits(_logits(network, images)))
    logger.info("it was trained in %s and is exported in float32: %s", policy, change)
    return PrecisionChange(trained=policy, exported="float32", change=change.record)


def _write_and_run(config: ExportConfig, network: "keras.Model", file: Path, images: UInt8Array) -> Outputs:
    """What the exported model says of the images, once it is written."""
    from lib.models.export.formats import serving_function, write_exported

    try:
        write_exported(serving_function(network), file, config.format, config.quantize)
        return run_in_parts(RUNTIMES[config.format](file), images)
    except Exception as error:  # converters and runtimes raise what they like about an operation they do not know
        reason = one_line(error) or type(error).__name__
        advice = "" if config.format == "savedmodel" else "; --format savedmodel can express every model"
        raise TissueError(
            f"{config.model_dir} cannot be exported as {config.format}{advice}: {reason[:300]}"
        ) from error


def _logits(network: "keras.Model", images: UInt8Array) -> FloatArray:
    from lib.models.export.formats import network_logits

    def run(part: UInt8Array) -> Outputs:
        return Outputs.of_logits(network_logits(network, part))

    return run_in_parts(run, images).logits


def _judge(config: ExportConfig, agreement: Agreement) -> None:
    """Refuse a file that is not the model; one that was quantised may differ, but not be nonsense."""
    logger.info("%s compared with model.keras: %s", FILES[config.format], agreement)
    if not agreement.finite:
        raise TissueError(f"the exported {config.format} model gives probabilities that are NaN")
    if config.quantize == "none" and not agreement.is_the_same:
        raise TissueError(
            f"the exported {config.format} model is not the same as model.keras: {agreement}; "
            f"expected at most {PROBABILITY_TOLERANCE:g} and the same first class"
        )


def _files(folder: Path) -> list[ExportedFile]:
    """Every file below a folder, with its size and SHA-256."""
    return [
        ExportedFile(
            path=path.relative_to(folder).as_posix(),
            size_bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
