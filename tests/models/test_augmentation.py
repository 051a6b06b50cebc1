"""What augmentation does: the changes that NumPy computes from the same draws, the same whoever draws them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from lib.models.augmentation import COLUMNS, DRAWS, HAEMATOXYLIN_EOSIN, IDENTITY, Augmentation, draw

SIZE, REACH = 48, 3
ALMOST_ONE = 1 - 2**-24
CHANGES = tuple(COLUMNS)
WORDS = st.integers(-(2**63), 2**63 - 1)
UNIFORM = st.integers(0, 2**24 - 1).map(lambda bits: bits * 2**-24)


def random_images(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def draws_with(change: str, *values: float) -> np.ndarray:
    """The draws of one image that are the identity but for one change."""
    draws = IDENTITY.copy()
    draws[COLUMNS[change]] = values
    return draws


def augment(changes: tuple[str, ...], images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    changed = Augmentation(changes)(images, draws)
    assert changed.dtype == tf.uint8
    return changed.numpy()


def augment_one(change: str, image: np.ndarray, *values: float) -> np.ndarray:
    return augment((change,), image[None], draws_with(change, *values)[None])[0]


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    reach = max(abs(down), abs(right))
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return padded[reach - down :, reach - right :][: len(image), : len(image)]


def restained(image: np.ndarray, haematoxylin: float, eosin: float) -> np.ndarray:
    """Ruifrok and Johnston's way: to amounts of three dyes, the third being what the two are not, and back."""
    dyes = np.vstack([HAEMATOXYLIN_EOSIN, np.cross(*HAEMATOXYLIN_EOSIN)]).astype(np.float64)
    density = -np.log10(np.maximum(image, 1e-9) / 255)
    amounts = density @ np.linalg.inv(dyes)
    return 255 * 10 ** -((amounts * [haematoxylin, eosin, 1]) @ dyes)


def expected_change(image: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """All changes of one image, before rounding."""
    flip_rows, flip_columns, turn, down, right, brightness, haematoxylin, eosin = draws[:8].astype(np.float64)
    changed = np.rot90(image, int(4 * turn))
    changed = changed[:: -1 if flip_rows >= 0.5 else 1, :: -1 if flip_columns >= 0.5 else 1]
    reach = len(image) // 16
    changed = shifted(changed, *(int((2 * reach + 1) * u) - reach for u in (down, right)))
    return restained(changed, 0.85 + 0.3 * haematoxylin, 0.85 + 0.3 * eosin) * (0.9 + 0.2 * brightness)


def assert_rounded(found: np.ndarray, expected: np.ndarray) -> None:
    """Rounded and cut off; float32 may round the other way what is within 0.01 of a half."""
    np.testing.assert_allclose(found.astype(float), np.minimum(expected, 255), atol=0.51, rtol=0)


def splitmix64(state: int, count: int) -> list[int]:
    """Vigna's splitmix64.c, in Python's integers."""
    outputs = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def test_the_reference_generator_gives_the_published_numbers() -> None:
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(seed=WORDS, epoch=WORDS, position=WORDS)
def test_an_image_draws_the_stream_of_its_seed_epoch_and_position(seed: int, epoch: int, position: int) -> None:
    state = 0
    for word in (seed, epoch, position):
        (state,) = splitmix64((state + word) % 2**64, 1)
    expected = [(bits >> 40) * 2**-24 for bits in splitmix64(state, DRAWS)]
    np.testing.assert_array_equal(draw(seed, epoch, np.array([position])), [expected])


@given(positions=st.lists(st.integers(-1, 10**9), max_size=20), cut=st.integers(0, 20))
def test_draws_do_not_depend_on_the_rest_of_the_batch(positions: list[int], cut: int) -> None:
    batch = np.array(positions, np.int64)
    together = draw(7, 3, batch)
    assert together.shape == (len(batch), DRAWS)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, np.concatenate([draw(7, 3, batch[:cut]), draw(7, 3, batch[cut:])]))
    np.testing.assert_array_equal(together[::-1], draw(7, 3, batch[::-1]))


def test_draws_are_uniform_in_each_column_and_below_one() -> None:
    draws = draw(0, 0, np.arange(100_000))
    assert draws.min() >= 0
    assert draws.max() < 1
    assert min(kstest(column, "uniform").pvalue for column in draws.T) > 1e-4


@pytest.mark.parametrize("other", [(0, 0, 1), (0, 1, 0), (1, 0, 0)], ids=["position", "epoch", "seed"])
def test_draws_are_not_correlated_with_those_of_the_next(other: tuple[int, int, int]) -> None:
    seed, epoch, step = other
    positions = np.arange(100_000)
    both = np.hstack([draw(0, 0, positions), draw(seed, epoch, positions + step)])
    correlations = np.corrcoef(both.T) - np.eye(2 * DRAWS)
    assert np.abs(correlations).max() < 5 / np.sqrt(len(positions))  # 5 standard deviations


@pytest.mark.parametrize(("rows", "columns"), [(0.0, 0.0), (0.5, 0.49), (0.49, 0.5), (ALMOST_ONE, ALMOST_ONE)])
def test_a_flip_is_the_one_of_numpy(rows: float, columns: float) -> None:
    image = random_images(1)[0]
    axes = [axis for axis, value in enumerate((rows, columns)) if value >= 0.5]
    np.testing.assert_array_equal(augment_one("flip", image, rows, columns), np.flip(image, axes))


@pytest.mark.parametrize(("turn", "turns"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.5, 2), (0.75, 3), (ALMOST_ONE, 3)])
def test_a_rotation_is_the_one_of_numpy(turn: float, turns: int) -> None:
    image = random_images(1)[0]
    np.testing.assert_array_equal(augment_one("rotate", image, turn), np.rot90(image, turns))


@pytest.mark.parametrize("down", range(-REACH, REACH + 1))
@pytest.mark.parametrize("right", [-REACH, 0, 1])
def test_a_shift_moves_the_inside_and_mirrors_the_border(down: int, right: int) -> None:
    image = random_images(1)[0]
    draws = [(pixels + REACH + 0.5) / (2 * REACH + 1) for pixels in (down, right)]
    found = augment_one("shift", image, *draws)
    np.testing.assert_array_equal(found, shifted(image, down, right))
    inside = (slice(REACH, -REACH), slice(REACH, -REACH))
    np.testing.assert_array_equal(found[inside], np.roll(image, (down, right), (0, 1))[inside])


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 180])
@pytest.mark.parametrize("value", [0.0, ALMOST_ONE])
def test_the_farthest_shift_is_a_sixteenth_of_the_side(size: int, value: float) -> None:
    image = random_images(1, size=size)[0]
    pixels = size // 16 if value else -(size // 16)
    np.testing.assert_array_equal(augment_one("shift", image, value, value), shifted(image, pixels, pixels))


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 0.9, ALMOST_ONE])
def test_brightness_multiplies_and_cuts_off(value: float) -> None:
    image = random_images(1)[0]
    assert_rounded(augment_one("brightness", image, value), image * (0.9 + 0.2 * value))


@pytest.mark.parametrize("haematoxylin", [0.0, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("eosin", [0.0, 0.3, ALMOST_ONE])
def test_stain_changes_the_amounts_of_the_two_dyes(haematoxylin: float, eosin: float) -> None:
    image = np.maximum(random_images(1)[0], 1)
    expected = restained(image, 0.85 + 0.3 * haematoxylin, 0.85 + 0.3 * eosin)
    assert_rounded(augment_one("stain", image, haematoxylin, eosin), expected)


@pytest.mark.parametrize("dye", [0, 1], ids=["haematoxylin", "eosin"])
def test_a_pure_dye_answers_to_its_own_draw_alone(dye: int) -> None:
    colour = np.round(255 * 10 ** -HAEMATOXYLIN_EOSIN[dye]).astype(np.uint8)
    image = np.tile(colour, (SIZE, SIZE, 1))
    stronger, other = np.full(2, 0.5), np.full(2, 0.5)
    stronger[dye], other[1 - dye] = 1, 0
    assert_rounded(augment_one("stain", image, *stronger), np.broadcast_to(255 * (colour / 255) ** 1.15, image.shape))
    np.testing.assert_allclose(augment_one("stain", image, *other).astype(int), image, atol=1)


@given(haematoxylin=UNIFORM, eosin=UNIFORM)
@settings(max_examples=30)
def test_white_stays_white_and_black_stays_black_under_stain(haematoxylin: float, eosin: float) -> None:
    for value in (0, 255):
        image = np.full((4, 4, 3), value, np.uint8)
        np.testing.assert_array_equal(augment_one("stain", image, haematoxylin, eosin), image)


@pytest.mark.parametrize("changes", [(), *((change,) for change in CHANGES), CHANGES])
def test_the_identity_draws_change_nothing(changes: tuple[str, ...]) -> None:
    images = random_images(4)
    np.testing.assert_array_equal(augment(changes, images, np.tile(IDENTITY, (4, 1))), images)


def test_without_changes_images_stay_as_they_are_whatever_is_drawn() -> None:
    images = random_images(4)
    np.testing.assert_array_equal(augment((), images, draw(0, 0, np.arange(4))), images)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_governed_by_its_own_draws_alone(change: str) -> None:
    images, draws = random_images(8), draw(1, 2, np.arange(8))
    own = np.stack([draws_with(change, *row[COLUMNS[change]]) for row in draws])
    alone = augment((change,), images, draws)
    assert (alone != images).any()
    np.testing.assert_array_equal(alone, augment(CHANGES, images, own))


@given(draws=st.lists(UNIFORM, min_size=DRAWS, max_size=DRAWS), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_all_changes_together_are_those_of_numpy_in_the_documented_order(draws: list[float], seed: int) -> None:
    image, row = np.maximum(random_images(1, seed, size=32)[0], 1), np.array(draws, np.float32)
    assert_rounded(augment(CHANGES, image[None], row[None])[0], expected_change(image, row))


@given(order=st.permutations(range(6)), seed=WORDS)
@settings(max_examples=30)
def test_an_image_is_changed_in_the_same_way_anywhere_in_any_batch(order: list[int], seed: int) -> None:
    images, draws = random_images(6, size=32), draw(seed, 0, np.arange(6))
    together = augment(CHANGES, images, draws)
    np.testing.assert_array_equal(augment(CHANGES, images[order], draws[order]), together[order])
    np.testing.assert_array_equal(augment(CHANGES, images[order[:1]], draws[order[:1]]), together[order[:1]])


def test_all_eight_orientations_are_equally_frequent() -> None:
    count = 4000
    images = np.tile(random_images(1, size=2), (count, 1, 1, 1))
    found = augment(("flip", "rotate"), images, draw(0, 0, np.arange(count)))
    orientations, frequencies = np.unique(found.reshape(count, -1), axis=0, return_counts=True)
    assert len(orientations) == 8
    np.testing.assert_allclose(frequencies, count / 8, atol=5 * np.sqrt(count / 8))


@pytest.mark.parametrize("changes", [(), *((change,) for change in CHANGES), CHANGES])
def test_a_graph_for_any_number_of_images_knows_their_size_and_gives_the_same(changes: tuple[str, ...]) -> None:
    layer = Augmentation(changes)
    signature = [tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8), tf.TensorSpec((None, DRAWS), tf.float32)]
    graph = tf.function(layer, input_signature=signature).get_concrete_function()
    assert graph.output_shapes.as_list() == [None, SIZE, SIZE, 3]
    for count in (0, 3):
        images, draws = random_images(count), draw(0, 0, np.arange(count))
        np.testing.assert_array_equal(graph(tf.constant(images), tf.constant(draws)), layer(images, draws))


def test_colours_are_as_exact_under_mixed_precision() -> None:
    images, draws = random_images(4), draw(0, 0, np.arange(4))
    expected = augment(CHANGES, images, draws)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        np.testing.assert_array_equal(augment(CHANGES, images, draws), expected)
    finally:
        keras.config.set_dtype_policy(before)


def test_there_is_nothing_to_save() -> None:
    layer = Augmentation(CHANGES)
    layer(random_images(1), draw(0, 0, np.arange(1)))
    assert layer.variables == []


def test_an_unknown_change_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown changes \\['blur'\\]"):
        Augmentation(["flip", "blur"])
