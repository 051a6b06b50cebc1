"""A whole training in one process: stopped anywhere it goes on as if nothing had happened, phase by phase."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from lib.config.fitting import FitConfig
from lib.models.registry import Network, build_network
from lib.models.spec import parse_spec
from lib.training.fit.optimizer import StepSize
from lib.training.fit.phases import BASE_RATE, phase_optimizer, trained_network
from lib.training.fit.plan import FINE_TUNE, Phase
from tests.fakes.images import FakeSource
from tests.fakes.training import AGREEING, StoppedError, Trained, TrainingHere

SIZE, CLASS_COUNT = 16, 3
EPOCHS, STEPS = 3, 6  # 22 images in batches of 4
SAVED = "saved:path=unused"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> TrainingHere:
    return TrainingHere(monkeypatch)


def source() -> FakeSource:
    return FakeSource({"train": 22, "validation": 7}, refused=frozenset({5}))


def plain(size: int) -> Network:
    images = keras.Input((size, size, 3), dtype="uint8")
    tensor = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 255)(images))
    tensor = keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(tensor))
    model = keras.Model(images, keras.layers.Dense(CLASS_COUNT, dtype="float32")(tensor))
    return Network(model, None, model)


def cnn(size: int) -> Network:
    """With channels that are standardised by the training images."""
    return build_network(parse_spec("cnn"), CLASS_COUNT, size, seed=0)


def normalised(size: int) -> Network:
    """With statistics that follow the images, and with units that are left out at random."""
    images = keras.Input((size, size, 3), dtype="uint8")
    tensor = keras.layers.Conv2D(4, 3, strides=2)(keras.layers.Rescaling(1 / 255)(images))
    tensor = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(tensor))
    tensor = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(tensor))
    model = keras.Model(images, keras.layers.Dense(CLASS_COUNT, dtype="float32")(tensor))
    return Network(model, None, model)


def with_base(size: int) -> Network:
    """A head on a frozen base of two convolutions, each normalised."""
    images = keras.Input((size, size, 3), dtype="uint8")
    tensor = keras.layers.Rescaling(1 / 255)(images)
    for filters in (4, 8):
        tensor = keras.layers.Conv2D(filters, 3, strides=2, name=f"conv_{filters}")(tensor)
        tensor = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"norm_{filters}")(tensor))
    base = keras.Model(images, keras.layers.GlobalAveragePooling2D()(tensor), name="base")
    base.trainable = False
    logits = keras.layers.Dense(CLASS_COUNT, name="logits", dtype="float32")
    outer, features = keras.Input((size, size, 3), dtype="uint8"), keras.Input((8,))
    return Network(keras.Model(outer, logits(base(outer))), base, keras.Model(features, logits(features)))


def assert_same_training(found: Trained, expected: Trained, tolerance: float = 1e-6) -> None:
    pd.testing.assert_frame_equal(found.history[AGREEING], expected.history[AGREEING], rtol=tolerance)
    for a, b in zip(found.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)
    numbers = [
        {name: number for name, number in trained.results["metrics"].items() if number is not None}
        for trained in (found, expected)
    ]
    assert numbers[0] == pytest.approx(numbers[1], rel=tolerance)
    for name in ("calibration", "reference"):
        numbers = [{key: -1 if v is None else v for key, v in one.results[name].items()} for one in (found, expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=10 * tolerance, abs=10 * tolerance)
    assert found.reference.drop(columns=["confidence", "embedding"]).equals(
        expected.reference.drop(columns=["confidence", "embedding"])
    )
    for column in ("confidence", "embedding"):
        a, b = (np.stack(trained.reference[column].to_numpy()) for trained in (found, expected))
        np.testing.assert_allclose(a, b, atol=10 * tolerance)


RESUMED = [
    pytest.param(cnn, {}, id="cnn", marks=pytest.mark.slow),
    pytest.param(plain, {"cache": "none"}, id="streamed", marks=pytest.mark.slow),
    pytest.param(
        normalised,
        {"augment": ("flip", "shift", "stain"), "class_weight": "balanced", "sampling": "balanced"},
        id="augmented", marks=pytest.mark.slow,
    ),
    pytest.param(plain, {"precision": "mixed_float16", "ema": 0.8}, id="float16", marks=pytest.mark.slow),
    pytest.param(
        normalised,
        {"ema": 0.8, "mixup": 0.4, "label_smoothing": 0.1, "clip_norm": 0.5, "optimizer": "adamw"}, id="settings",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("build", "settings"), RESUMED)
def test_training_stopped_twice_ends_as_if_it_had_never_been(
    here: TrainingHere, tmp_path: Path, build: Callable[[int], Network], settings: dict[str, object]
) -> None:
    here.build = build
    fit = {"epochs": EPOCHS, "batch_size": 4, "learning_rate": 0.01} | settings
    undisturbed = here.run(tmp_path / "one", source(), **fit)
    assert undisturbed.steps == EPOCHS * STEPS

    # A step after the second checkpoint of the second epoch; and once more within the rest of that epoch.
    stopped = here.run(tmp_path / "two", source(), stop_before=STEPS + 5, checkpoint_every=2, **fit)
    assert stopped.results == {}
    again = here.run(tmp_path / "two", source(), stop_before=1, checkpoint_every=1, **fit)
    resumed = here.run(tmp_path / "two", source(), **fit)
    assert (stopped.steps, again.steps, resumed.steps) == (STEPS + 5, 1, EPOCHS * STEPS - (STEPS + 4) - 1)
    assert_same_training(resumed, undisturbed)


def test_statistics_of_batch_normalisation_are_those_of_the_training_images(here: TrainingHere, tmp_path: Path) -> None:
    here.build = normalised
    model = here.run(tmp_path, source(), epochs=1, batch_size=4, learning_rate=0.03).model
    convolution, statistics = model.layers[2], model.layers[3]
    inputs = np.asarray(keras.Model(model.input, convolution.output)(images_of("train"))).reshape(-1, 4)
    np.testing.assert_allclose(statistics.moving_mean, inputs.mean(axis=0), atol=0.1 * inputs.std())
    np.testing.assert_allclose(statistics.moving_variance, inputs.var(axis=0), rtol=0.1)


@pytest.mark.parametrize("epochs", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    here: TrainingHere, tmp_path: Path, epochs: int
) -> None:
    here.build = plain
    fit = {"epochs": epochs, "batch_size": 4, "learning_rate": 0.01}
    last, average = (here.run(tmp_path / str(ema), source(), ema=ema, **fit) for ema in (None, 0.9))
    # Steps are the same, and so is the loss while training; only what comes of them differs.
    np.testing.assert_array_equal(average.history["loss"], last.history["loss"])
    assert (average.history["val_loss"] != last.history["val_loss"]).all()
    kept = average.history["val_loss"].min()
    assert validation_loss(average.model, average.results["calibration"]["temperature"]) == pytest.approx(
        kept, rel=1e-5
    )


def test_training_stopped_between_two_epochs_goes_on_with_the_next(here: TrainingHere, tmp_path: Path) -> None:
    here.build = normalised
    fit = {"epochs": EPOCHS, "batch_size": 4}
    undisturbed = here.run(tmp_path / "one", source(), **fit)
    here.run(tmp_path / "two", source(), stop_before=2 * STEPS + 3, **fit)
    resumed = here.run(tmp_path / "two", source(), **fit)
    assert resumed.steps == STEPS
    assert_same_training(resumed, undisturbed)


def test_training_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    here: TrainingHere, tmp_path: Path
) -> None:
    here.build = plain
    fit = {"epochs": EPOCHS, "batch_size": 4}
    undisturbed = here.run(tmp_path / "one", source(), **fit)
    here.run(tmp_path / "two", source(), stop_before=2 * STEPS + 3, **fit)
    newest = max((tmp_path / "two" / "checkpoints").glob("checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = here.run(tmp_path / "two", source(), **fit)
    assert resumed.steps == 2 * STEPS
    assert_same_training(resumed, undisturbed)


def test_a_long_epoch_is_saved_by_the_clock(here: TrainingHere, tmp_path: Path) -> None:
    here.build = normalised
    fit = {"epochs": EPOCHS, "batch_size": 4}
    undisturbed = here.run(tmp_path / "one", source(), **fit)
    here.run(tmp_path / "two", source(), stop_before=STEPS + 3, checkpoint_minutes=1e-9, **fit)
    resumed = here.run(tmp_path / "two", source(), **fit)
    assert resumed.steps == EPOCHS * STEPS - (STEPS + 3)
    assert_same_training(resumed, undisturbed)


def test_training_stopped_before_its_first_checkpoint_begins_again(here: TrainingHere, tmp_path: Path) -> None:
    here.build = plain
    here.run(tmp_path, source(), stop_before=3, epochs=1, batch_size=4)
    assert here.run(tmp_path, source(), epochs=1, batch_size=4).steps == STEPS


def test_patience_is_counted_across_a_stop(here: TrainingHere, tmp_path: Path) -> None:
    here.build = plain
    here.use_optimizer(lambda: keras.optimizers.SGD(0.0))  # no epoch is better than the first
    fit = {"epochs": 9, "batch_size": 4, "patience": 3, "keep_epoch": "best"}
    here.run(tmp_path, source(), stop_before=2 * STEPS + 1, **fit)
    resumed = here.run(tmp_path, source(), **fit)
    assert (resumed.steps, len(resumed.history), resumed.results["metrics"]["best_epoch"]) == (2 * STEPS, 4, 1)


def test_a_finished_training_is_not_done_again(here: TrainingHere, tmp_path: Path) -> None:
    here.build = with_base
    fit = {"spec": SAVED, "epochs": 2, "fine_tune_epochs": 2, "batch_size": 4}
    first = here.run(tmp_path, source(), **fit)
    second = here.run(tmp_path, source(), **fit)
    assert (first.steps, second.steps) == (4 * STEPS, 0)
    assert_same_training(second, first)


IN_PHASES: dict[str, Any] = {
    "spec": SAVED, "epochs": 2, "fine_tune_epochs": 2, "fine_tune_layers": 1, "fine_tune_rate": 0.01, "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed_in_phases(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        here = TrainingHere(patch)
        here.build = with_base
        return here.run(tmp_path_factory.mktemp("undisturbed"), source(), **IN_PHASES)


@pytest.mark.slow
@pytest.mark.parametrize("stop_before", [STEPS + 3, 2 * STEPS, 2 * STEPS + 3, 3 * STEPS + 1])
def test_training_in_phases_stopped_in_any_of_them_ends_the_same(
    undisturbed_in_phases: Trained, here: TrainingHere, tmp_path: Path, stop_before: int
) -> None:
    here.build = with_base
    here.run(tmp_path, source(), stop_before=stop_before, checkpoint_every=2, **IN_PHASES)
    resumed = here.run(tmp_path, source(), **IN_PHASES)
    assert undisturbed_in_phases.history["phase"].tolist() == ["head", "head", "fine_tune", "fine_tune"]
    assert undisturbed_in_phases.history["epoch"].tolist() == [1, 2, 3, 4]
    assert_same_training(resumed, undisturbed_in_phases)


def test_images_from_memory_and_streamed_give_the_same_model(here: TrainingHere, tmp_path: Path) -> None:
    here.build = plain
    fit = {"epochs": 2, "batch_size": 4, "augment": ("flip",), "class_weight": "balanced"}
    cached = here.run(tmp_path / "one", source(), cache="memory", **fit)
    streamed = here.run(tmp_path / "two", source(), cache="none", **fit)
    assert_same_training(streamed, cached, tolerance=0)
    refused = streamed.messages.image_verdicts().refused
    assert refused == cached.messages.image_verdicts().refused
    assert {split: [image.position for image in images] for split, images in refused.items()} == {"train": [5]}


def test_a_change_of_the_images_changes_the_training(here: TrainingHere, tmp_path: Path) -> None:
    here.build = plain
    fit = {"epochs": 1, "batch_size": 4}
    as_they_are = here.run(tmp_path / "one", source(), **fit).history["loss"][0]
    for setting in ({"augment": ("brightness",)}, {"class_weight": "balanced"}, {"sampling": "balanced"}):
        folder = tmp_path / next(iter(setting))
        assert here.run(folder, source(), **fit, **setting).history["loss"][0] != pytest.approx(as_they_are, abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"cache": "none"}, {"precision": "mixed_bfloat16"}], ids=str)
def test_the_cnn_standardises_channels_by_the_training_images(
    here: TrainingHere, tmp_path: Path, settings: dict[str, object]
) -> None:
    here.build = cnn
    layer = here.run(tmp_path, source(), epochs=1, batch_size=4, **settings).model.get_layer("normalisation")
    channels = images_of("train").reshape(-1, 3) / 255  # without the refused one
    np.testing.assert_allclose(np.ravel(layer.mean), channels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(np.ravel(layer.variance), channels.var(axis=0), rtol=1e-6)


def test_a_new_head_on_a_cnn_leaves_its_statistics_as_they_are(here: TrainingHere, tmp_path: Path) -> None:
    def on_cnn(size: int) -> Network:
        below = cnn(size).model
        below.get_layer("normalisation").adapt(np.full((1, size, size, 3), 0.3))
        base = keras.Model(below.input, below.layers[-1].input, name="base")
        base.trainable = False
        logits = keras.layers.Dense(CLASS_COUNT, name="logits", dtype="float32")
        images, features = keras.Input((size, size, 3), dtype="uint8"), keras.Input((128,))
        return Network(keras.Model(images, logits(base(images))), base, keras.Model(features, logits(features)))

    here.build = on_cnn
    model = here.run(tmp_path, source(), spec=SAVED, epochs=1, batch_size=4, fine_tune_epochs=1).model
    assert np.ravel(model.get_layer("base").get_layer("normalisation").mean) == pytest.approx([0.3] * 3)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_model_trained_in_mixed_precision_is_saved_in_float32(
    here: TrainingHere, tmp_path: Path, precision: str
) -> None:
    here.build = plain
    trained = here.run(tmp_path, source(), epochs=2, batch_size=4, precision=precision)
    assert {layer.compute_dtype for layer in trained.network.model.layers} > {precision.removeprefix("mixed_")}
    model = trained.model
    assert {layer.compute_dtype for layer in model._flatten_layers()} <= {"float32", "uint8"}
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype("float32")}
    *below, kernel, bias = trained.network.model.get_weights()
    temperature = np.float32(trained.results["calibration"]["temperature"])
    for a, b in zip(model.get_weights(), [*below, kernel / temperature, bias / temperature], strict=True):
        np.testing.assert_array_equal(a, b)
    assert keras.config.dtype_policy().name == "float32"


# -- phases


def rates(step_size: StepSize, steps: int) -> list[float]:
    return [float(step_size(step)) for step in range(steps)]


def test_the_step_size_rises_in_a_line_and_stays() -> None:
    rising = StepSize(0.5, warm_up=4, steps=100, falls=False)
    assert rates(rising, 7) == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5]
    assert rates(StepSize(0.5, warm_up=0, steps=100, falls=False), 1) == [0.5]


def test_the_step_size_falls_along_a_cosine_to_nothing_at_the_end() -> None:
    falling = rates(StepSize(0.5, warm_up=2, steps=10, falls=True), 11)
    expected = [0.25, 0.5, *(0.25 * (1 + np.cos(np.pi * np.arange(9) / 8)))]
    np.testing.assert_allclose(falling, expected, atol=1e-7)
    assert falling[-1] == pytest.approx(0, abs=1e-7)


def fine_tuning(network: Network, layers: int = 1) -> tuple[Phase, keras.Model]:
    phase = Phase(1, FINE_TUNE, epochs=5)
    return phase, trained_network(phase, network, FitConfig(fine_tune_layers=layers))


def first_steps(phase: Phase, network: Network, model: keras.Model, config: FitConfig, rate: float) -> list[float]:
    """How far the first step moves each trained variable, if all gradients are the same."""
    optimizer = phase_optimizer(phase, network, config, rate, steps=20)
    optimizer.build(model.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    # The first step of Adam is the step size itself, whatever the size of the gradient.
    optimizer.apply([keras.ops.full_like(variable, 0.3) for variable in model.trainable_variables])
    steps = [old - variable.numpy() for variable, old in zip(model.trainable_variables, before, strict=True)]
    assert all(np.ptp(step) < 1e-3 * abs(step.mean()) for step in steps)
    return [float(step.mean()) for step in steps]


def test_fine_tuning_steps_a_tenth_in_the_base() -> None:
    network = with_base(SIZE)
    phase, model = fine_tuning(network)
    rate = 0.02 / 10  # the first of 20 x 5 / 10 steps in which the step size rises
    expected = [rate * BASE_RATE] * 2 + [rate] * 2
    assert first_steps(phase, network, model, FitConfig(fine_tune_rate=0.02), 1.0) == pytest.approx(expected, rel=1e-3)


def test_fine_tuning_steps_less_the_deeper_a_layer_of_the_base_is() -> None:
    network = with_base(SIZE)
    phase, model = fine_tuning(network, layers=2)
    config, rate = FitConfig(fine_tune_rate=0.02, fine_tune_decay=0.5), 0.02 / 10
    expected = [rate * BASE_RATE * 0.5] * 2 + [rate * BASE_RATE] * 2 + [rate] * 2
    assert first_steps(phase, network, model, config, 1.0) == pytest.approx(expected, rel=1e-3)


def test_the_other_phases_step_as_told() -> None:
    network, phase = with_base(SIZE), Phase(0, "head", 5, on_features=True)
    for warmup_epochs, rate in ((None, 0.25 / 10), (0, 0.25), (2, 0.25 / 40)):
        config = FitConfig(warmup_epochs=warmup_epochs)
        assert first_steps(phase, network, network.head, config, 0.25) == pytest.approx([rate] * 2, rel=1e-3)


def test_adamw_shrinks_kernels_and_leaves_biases_alone() -> None:
    network, phase = with_base(SIZE), Phase(0, "head", 5, on_features=True)
    config = FitConfig(optimizer="adamw", weight_decay=0.5, warmup_epochs=0)
    optimizer = phase_optimizer(phase, network, config, 0.1, steps=20)
    kernel, bias = network.head.trainable_variables
    optimizer.build([kernel, bias])
    bias.assign(np.ones(CLASS_COUNT))
    before = kernel.numpy()
    optimizer.apply([keras.ops.zeros_like(kernel), keras.ops.zeros_like(bias)])
    np.testing.assert_allclose(kernel.numpy(), before * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal(bias.numpy(), np.ones(CLASS_COUNT))


def test_a_gradient_that_is_too_long_is_shortened_as_a_whole() -> None:
    network, phase = with_base(SIZE), Phase(0, "head", 5, on_features=True)
    optimizer = phase_optimizer(phase, network, FitConfig(clip_norm=0.5), 0.1, steps=20)
    kernel, bias = network.head.trainable_variables
    optimizer.build([kernel, bias])
    gradients = [keras.ops.full_like(kernel, 3.0), keras.ops.full_like(bias, 4.0)]
    length = np.sqrt(kernel.numpy().size * 9 + bias.numpy().size * 16)
    optimizer.apply(gradients)
    moments = [moment.numpy() for moment in optimizer._momentums]  # a tenth of the gradient that was taken
    np.testing.assert_allclose(moments[0], 0.1 * 3.0 * 0.5 / length, rtol=1e-5)
    np.testing.assert_allclose(moments[1], 0.1 * 4.0 * 0.5 / length, rtol=1e-5)


def test_fine_tuning_leaves_batch_normalisation_and_earlier_layers_as_they_are(
    here: TrainingHere, tmp_path: Path
) -> None:
    here.build = with_base
    fit = {"spec": SAVED, "epochs": 3, "batch_size": 4, "fine_tune_layers": 1, "fine_tune_rate": 0.01}
    head = here.run(tmp_path / "head", source(), **fit).network
    tuned = here.run(tmp_path / "tuned", source(), fine_tune_epochs=4, **fit)
    assert tuned.results["metrics"]["best_epoch"] > 3  # or the weights of the head alone were taken
    for before, after in zip(head.base.layers, tuned.network.base.layers, strict=True):
        pairs = zip(before.get_weights(), after.get_weights(), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs) == (before.name != "conv_8"), before.name


def test_fine_tuning_that_makes_it_worse_is_not_kept(here: TrainingHere, tmp_path: Path) -> None:
    here.build = with_base
    fit = {"spec": SAVED, "epochs": 3, "batch_size": 4}
    head = here.run(tmp_path / "head", source(), **fit)
    spoiled = here.run(tmp_path / "spoiled", source(), fine_tune_epochs=2, fine_tune_rate=100.0, **fit)
    assert spoiled.history["phase"].tolist() == ["head"] * 3 + ["fine_tune"] * 2
    assert spoiled.results["metrics"]["best_epoch"] == head.results["metrics"]["best_epoch"]
    for a, b in zip(spoiled.model.get_weights(), head.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_head_learns_on_features_what_it_would_on_images(here: TrainingHere, tmp_path: Path) -> None:
    here.build = with_base
    trained = here.run(tmp_path, source(), spec=SAVED, epochs=3, batch_size=4)
    calibration = trained.results["calibration"]
    assert calibration["loss_before"] == pytest.approx(trained.history["val_loss"].min(), rel=1e-5)
    assert validation_loss(trained.model) == pytest.approx(calibration["loss_after"], rel=1e-5)
    assert validation_loss(trained.model, calibration["temperature"]) == pytest.approx(calibration["loss_before"])


def validation_loss(model: keras.Model, factor: float = 1.0) -> float:
    """Of all validation images, their logits times a factor."""
    logits = model(images_of("validation"), training=False) * factor
    losses = keras.losses.sparse_categorical_crossentropy(np.arange(7) % 3, logits, from_logits=True)
    return float(np.mean(losses))


def images_of(split: str) -> np.ndarray:
    images = source()
    rows = [row for unit in images.units(split) for row in images.decoder(unit).to_pylist()]
    return np.stack([np.frombuffer(row["image"], np.uint8).reshape(SIZE, SIZE, 3) for row in rows if row["image"]])


# -- the end


@pytest.mark.parametrize(
    ("build", "fit"),
    [
        pytest.param(plain, {"augment": ("flip",), "sampling": "balanced"}, id="images"),
        pytest.param(with_base, {"spec": SAVED}, id="features"),
        pytest.param(with_base, {"spec": SAVED, "fine_tune_epochs": 1}, id="fine-tuned"),
        pytest.param(plain, {"precision": "mixed_bfloat16", "cache": "none"}, id="bfloat16"),
    ],
)
def test_the_reference_is_what_the_saved_model_makes_of_each_training_image(
    here: TrainingHere, tmp_path: Path, build: Callable[[int], Network], fit: dict[str, object]
) -> None:
    here.build = build
    trained = here.run(tmp_path, source(), epochs=2, batch_size=4, **fit)
    model, reference = trained.model, trained.reference
    assert reference["image_id"].tolist() == [f"train-{position}" for position in range(22) if position != 5]
    embeddings, logits = keras.Model(model.input, [model.layers[-1].input, model.output]).predict(images_of("train"))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(np.stack(reference["embedding"]), embeddings, atol=1e-5)
    probabilities = np.asarray(keras.ops.softmax(logits))
    np.testing.assert_allclose(reference["confidence"], probabilities.max(axis=1), atol=1e-5)
    names = np.array(source().class_names)
    assert reference["predicted"].tolist() == names[probabilities.argmax(axis=1)].tolist()
    record = trained.results["reference"]
    assert (record["images"], record["neighbours"], record["validation_images"]) == (21, 5, 7)
    shown = (tmp_path / "tensorboard" / "projector" / "metadata.tsv").read_text().splitlines()
    assert len(shown) == 1 + 21


def test_a_model_without_validation_images_stays_uncalibrated(here: TrainingHere, tmp_path: Path) -> None:
    here.build = plain
    trained = here.run(tmp_path, FakeSource({"train": 22}), epochs=1, batch_size=4)
    assert (trained.results["calibration"], trained.results["reference"]) == (None, None)
    for a, b in zip(trained.model.get_weights(), trained.network.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(trained.reference) == 22


def test_training_that_is_lost_at_its_very_end_does_the_end_again(
    here: TrainingHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.build = plain
    fit = {"epochs": 1, "batch_size": 4}
    undisturbed = here.run(tmp_path / "one", source(), **fit)
    with monkeypatch.context() as patch:
        patch.setattr("lib.training.fit.finish.write_reference", lost)
        assert here.run(tmp_path / "two", source(), **fit).results == {}
    assert (tmp_path / "two" / "model.keras").exists()
    again = here.run(tmp_path / "two", source(), **fit)
    assert again.steps == 0
    assert_same_training(again, undisturbed)


def lost(*_: object) -> None:
    raise StoppedError
