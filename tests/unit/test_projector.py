"""The files of a Projector's run folder, the choice of its points, and what TensorBoard says of them."""

import dataclasses
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from lib.errors import DataError
from lib.projector import (
    MOST_POINTS,
    ProjectorPoints,
    choose_points,
    projector_files,
    unit_length,
    verify_projector,
    verify_projector_files,
)
from lib.projector.run_folder import EVENTS, METADATA, SPRITE, VECTORS, escape
from lib.projector.sprite import SPRITE_PX, columns, sprite, thumbnail_side
from lib.projector.verification import check_routes, tensorboard


def some_points(count: int = 7, dimensions: int = 5, *, pictures: bool = True) -> ProjectorPoints:
    """Points of three classes, each with a picture in one shade of grey of its own."""
    rng = np.random.default_rng(count)
    labels = [("liver", "lung", "skin")[number % 3] for number in range(count)]
    shades = [np.full((20, 20, 3), number % 256, np.uint8) for number in range(count)]
    return ProjectorPoints(
        embeddings=rng.normal(size=(count, dimensions)).astype(np.float32) * 100,
        labels=labels,
        predicted=["liver"] * count,
        confidence=np.linspace(0, 1, count, dtype=np.float32),
        paths=[f"test/{label}/{number}.tif" for number, label in enumerate(labels)],
        thumbnails=shades if pictures else None,
    )


def read_vectors(files: dict[str, bytes]) -> np.ndarray:
    return np.array([[float(text) for text in line.split("\t")] for line in files[VECTORS].decode().splitlines()])


def test_the_config_names_files_of_the_folder_and_states_their_sizes(tmp_path: Path) -> None:
    files = projector_files(some_points())
    config = text_format.Parse(files["projector_config.pbtxt"].decode(), ProjectorConfig())
    (embedding,) = config.embeddings
    named = {embedding.tensor_path, embedding.metadata_path, embedding.bookmarks_path, embedding.sprite.image_path}
    assert named == set(files) - {EVENTS, "projector_config.pbtxt"}
    assert list(embedding.tensor_shape) == [7, 5]
    assert list(embedding.sprite.single_image_dim) == [64, 64]
    (tmp_path / EVENTS).write_bytes(files[EVENTS])
    assert [event.file_version for event in EventFileLoader(str(tmp_path / EVENTS)).Load()] == ["brain.Event:2"]


def test_the_same_points_give_the_same_bytes() -> None:
    assert projector_files(some_points()) == projector_files(some_points())


def test_vectors_have_unit_length_and_the_direction_of_the_embeddings() -> None:
    points = some_points(50, 300)
    vectors = read_vectors(projector_files(points))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-4)
    expected = points.embeddings / np.linalg.norm(points.embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=6e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_lengths_that_float32_cannot_square_become_one(scale: float) -> None:
    np.testing.assert_allclose(unit_length(np.array([[3, 4], [0, 0]], np.float32) * np.float32(scale))[0], [0.6, 0.8])


def test_a_zero_embedding_stays_zero() -> None:
    np.testing.assert_array_equal(unit_length(np.zeros((1, 3), np.float32)), [[0, 0, 0]])


def test_the_metadata_has_a_header_and_a_row_a_point() -> None:
    lines = projector_files(some_points(3))[METADATA].decode().splitlines()
    assert lines == [
        "label\tpredicted\tcorrect\tconfidence\tpath",
        "liver\tliver\tyes\t0.0000\ttest/liver/0.tif",
        "lung\tliver\tno\t0.5000\ttest/lung/1.tif",
        "skin\tliver\tno\t1.0000\ttest/skin/2.tif",
    ]


@given(text=st.text(st.characters(exclude_categories=())))
def test_no_text_leaves_its_cell_of_the_metadata(text: str) -> None:
    points = dataclasses.replace(some_points(2, pictures=False), paths=[text, "b"], labels=[text, "b"])
    metadata = projector_files(points)[METADATA].decode()
    assert [line.count("\t") for line in metadata.splitlines()] == [4, 4, 4]
    assert metadata.count("\n") == 3


def test_printable_text_is_kept_as_it_is() -> None:
    assert escape("Gewebe/Ärzte 組織 no. 1.tif") == "Gewebe/Ärzte 組織 no. 1.tif"
    assert escape("a\tb\nc") == r"a\tb\nc"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 300])
def test_the_sprite_is_square_and_holds_the_thumbnails_row_by_row(count: int) -> None:
    files = projector_files(some_points(count))
    picture = cv2.imdecode(np.frombuffer(files[SPRITE], np.uint8), cv2.IMREAD_COLOR)
    side, across = thumbnail_side(count), columns(count)
    assert picture.shape == (across * side, across * side, 3)
    middles = picture[side // 2 :: side, side // 2 :: side, 0].ravel()
    np.testing.assert_array_equal(middles[:count], np.arange(count) % 256)
    assert not middles[count:].any()


def test_thumbnails_keep_their_colours_and_proportions() -> None:
    red = np.zeros((30, 60, 3), np.uint8)
    red[..., 0] = 255
    encoded = cv2.imencode(".png", np.ascontiguousarray(red[..., ::-1]))[1].tobytes()
    picture = cv2.imdecode(np.frombuffer(sprite([red, encoded]), np.uint8), cv2.IMREAD_COLOR)
    for x in (32, 96):
        np.testing.assert_array_equal(picture[32, x], [0, 0, 255])
        np.testing.assert_array_equal(picture[8, x], [0, 0, 0])  # 64 pixels wide, 32 high
    assert (picture[:64, :64] == picture[:64, 64:]).all()


@given(count=st.integers(1, MOST_POINTS))
def test_the_sprite_is_never_larger_than_it_may_be(count: int) -> None:
    assert columns(count) * thumbnail_side(count) <= SPRITE_PX
    assert columns(count) ** 2 >= count


@pytest.mark.parametrize("bad", [b"", b"no image", np.zeros((3, 3), np.uint8), np.zeros((3, 3, 3))])
def test_a_thumbnail_that_is_no_image_is_refused(bad: object) -> None:
    with pytest.raises(DataError, match="thumbnail 1 "):
        sprite([np.zeros((3, 3, 3), np.uint8), bad])


def test_points_without_pictures_have_no_sprite() -> None:
    files = projector_files(some_points(pictures=False))
    assert SPRITE not in files
    assert b"sprite" not in files["projector_config.pbtxt"]


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": np.zeros((0, 5))},
        {"embeddings": np.zeros((7, 0))},
        {"embeddings": np.full((7, 5), np.nan)},
        {"embeddings": np.zeros((MOST_POINTS + 1, 2))},
        {"labels": ["liver"]},
        {"thumbnails": []},
    ],
)
def test_points_that_tensorboard_could_not_show_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DataError):
        dataclasses.replace(some_points(), **changes)


@given(
    labels=st.lists(st.sampled_from("abc"), max_size=60),
    most=st.integers(1, 70),
    order=st.randoms(use_true_random=False),
)
def test_chosen_points_are_fair_to_classes_and_do_not_depend_on_the_order(labels, most: int, order) -> None:
    ids = [f"image {number}" for number in range(len(labels))]
    chosen = choose_points(labels, ids, most)
    assert len(chosen) == min(most, len(labels))
    assert list(chosen) == sorted(set(chosen))
    taken, there = Counter(labels[index] for index in chosen), Counter(labels)
    largest = max(taken.values(), default=0)
    assert all(taken[label] >= min(there[label], largest - 1) for label in there)

    shuffled = list(range(len(labels)))
    order.shuffle(shuffled)
    again = choose_points([labels[index] for index in shuffled], [ids[index] for index in shuffled], most)
    assert {ids[shuffled[index]] for index in again} == {ids[index] for index in chosen}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """TensorBoard on a folder like that of an evaluation, which also has broken runs."""
    folder = tmp_path_factory.mktemp("evaluation")
    files = projector_files(some_points(40))
    one_row_less = files[METADATA].decode().rstrip("\n").rsplit("\n", 1)[0].encode() + b"\n"
    runs = {
        "projector": files,
        "one_row_less": files | {METADATA: one_row_less},
        "other_sprite": files | {SPRITE: projector_files(some_points(80))[SPRITE]},
        "long_vectors": files | {VECTORS: files[VECTORS].replace(b"0.", b"7.")},
        "no_sprite": {name: content for name, content in files.items() if name != SPRITE},
        "outside": files
        | {"projector_config.pbtxt": files["projector_config.pbtxt"].replace(b'"metadata', b'"../projector/metadata')},
    }
    for run, contents in runs.items():
        (folder / run).mkdir()
        for name, content in contents.items():
            (folder / run / name).write_bytes(content)
    (folder / "plots").mkdir()
    (folder / "plots" / "map_pca.png").write_bytes(b"a picture")
    (folder / "maps.parquet").write_bytes(b"a table")
    with tensorboard(folder) as address:
        yield address


def test_tensorboard_serves_the_run_among_other_files(served: str) -> None:
    check_routes(served, "projector", some_points(40))


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        ("one_row_less", "rows 39, not 40"),
        ("other_sprite", "a picture of .576, 576., not .448, 448."),
        ("long_vectors", "vectors of unit length 0, not 40"),
        ("no_sprite", "answers 400 to data/plugin/projector/sprite_image"),
        ("outside", "answers 400 to data/plugin/projector/metadata: .*outside"),
    ],
)
def test_a_run_that_tensorboard_does_not_serve_in_full_is_refused(served: str, run: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        check_routes(served, run, some_points(40))


def test_a_run_with_other_points_is_refused(served: str) -> None:
    with pytest.raises(DataError, match=r"tensors of shape \[\[40, 5\]\], not \[\[41, 5\]\]"):
        check_routes(served, "projector", some_points(41))


def test_a_run_that_is_not_listed_is_named(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.projector.verification.LISTED_TIMEOUT_S", 0.2)
    with pytest.raises(DataError, match=r"does not list the run 'elsewhere', only .*'projector'"):
        check_routes(served, "elsewhere", some_points(40))


def test_files_from_storage_are_verified_in_a_copy_and_no_process_is_left() -> None:
    points = some_points(3, pictures=False)
    verify_projector_files(projector_files(points), points)


def test_a_tensorboard_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DataError, match="TensorBoard ended with code 1"):
        verify_projector(tmp_path, "projector", some_points(3))
