"""SavedModels in a .tar.gz: from storage or a TF Hub handle, proven by checksum, unpacked without trust in names."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from lib.errors import SettingsError, StorageError, TissueError
from lib.models import archive as archives
from lib.models.archive import check_archive, unpack_saved_model
from lib.models.provenance import weights_digest
from lib.models.registry import build_base
from lib.models.spec import check_spec, parse_spec
from lib.storage import web
from lib.storage.faults import RetryPolicy
from lib.training.trainer import require_weights_of
from tests.fakes.web import Website, website

SIZE, WIDTH = 12, 4
HANDLE = "/google/feature_vector/5"
ASKED = HANDLE + "?tf-hub-format=compressed"


class Means(tf.Module):
    """The mean of each channel and their sum, times a number."""

    def __init__(self, factor: float) -> None:
        self.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, "inputs")])
    def serve(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        means = tf.reduce_mean(pixels, (1, 2))
        return {"features": self.factor * tf.concat([means, tf.reduce_sum(means, 1, keepdims=True)], 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = Means(3.0)
    target = tmp_path_factory.mktemp("saved") / "model"
    tf.saved_model.save(module, str(target), signatures={"serving_default": module.serve})
    return target


def packed(folder: Path, below: str = ".") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(folder, below)
    return content.getvalue()


def with_member(folder: Path, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"x") -> bytes:
    """An archive with a further member."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        tar.add(folder, ".")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "saved_model.pb"
        member.size = len(content) if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Website]:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(web, "RETRIES", RetryPolicy(attempts=3, first_delay_s=0.01))
    (tmp_path / "site").mkdir()
    with website(tmp_path / "site") as served:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(served.certificate))
        yield served


def features_of(spec: str) -> np.ndarray:
    images = np.arange(2 * SIZE * SIZE * 3, dtype=np.uint32).reshape(2, SIZE, SIZE, 3).astype(np.uint8)
    found = keras.ops.convert_to_numpy(build_base(parse_spec(spec), SIZE)(images))
    means = images.astype(np.float64).mean((1, 2)) / 255
    expected = 3 * np.concatenate([means, means.sum(1, keepdims=True)], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    return found


@pytest.mark.parametrize("below", [".", "model", "a/b"])
def test_an_archive_is_used_like_the_folder_it_holds(folder: Path, tmp_path: Path, below: str) -> None:
    content = packed(folder, below)
    file = tmp_path / "model.tar.gz"
    file.write_bytes(content)
    spec = parse_spec(f"hub:path={file},sha256={sha256(content)}")
    check_spec(spec, SIZE)
    check_archive(spec)
    features_of(spec.text)
    assert weights_digest(spec, SIZE) == sha256(content)


def test_a_handle_of_tf_hub_is_downloaded_once_in_its_compressed_form(folder: Path, site: Website) -> None:
    site.redirects[ASKED] = "/bucket/model.tar.gz"
    site.files["/bucket/model.tar.gz"] = packed(folder)
    spec = f"hub:path={site.url}{HANDLE}"
    require_weights_of([parse_spec(spec)], SIZE)
    features_of(spec)
    assert weights_digest(parse_spec(spec), SIZE) == sha256(packed_of(site))
    assert site.asked == [ASKED, "/bucket/model.tar.gz"]


def packed_of(site: Website) -> bytes:
    return site.files["/bucket/model.tar.gz"]


def test_a_link_to_an_archive_is_asked_for_as_it_is(folder: Path, site: Website) -> None:
    site.files["/m.tar.gz?signed=1"] = packed(folder)
    features_of(f"hub:path={site.url}/m.tar.gz?signed=1")


def test_what_is_downloaded_must_have_the_checksum_and_is_not_kept_otherwise(folder: Path, site: Website) -> None:
    content = packed(folder)
    site.files[ASKED] = content + b" "
    spec = parse_spec(f"hub:path={site.url}{HANDLE},sha256={sha256(content)}")
    for _ in range(2):
        with pytest.raises(TissueError, match=f"are another file: sha256 is {sha256(content + b' ')}, expected"):
            require_weights_of([spec], SIZE)
    assert len(site.asked) == 2
    site.files[ASKED] = content
    require_weights_of([spec], SIZE)
    assert weights_digest(spec, SIZE) == sha256(content)


def test_a_busy_server_and_half_an_answer_are_asked_again(folder: Path, site: Website) -> None:
    site.files[ASKED], site.failures[ASKED] = packed(folder), 2
    require_weights_of([parse_spec(f"hub:path={site.url}{HANDLE}")], SIZE)
    assert len(site.asked) == 3
    site.files["/half.tar.gz"] = packed(folder)
    site.cut.add("/half.tar.gz")
    with pytest.raises(StorageError, match=r"cannot download .*half\.tar\.gz: .*\(tried 3 times\)"):
        require_weights_of([parse_spec(f"hub:path={site.url}/half.tar.gz")], SIZE)


def refused(spec: str) -> str:
    """The one line by which weights are refused."""
    with pytest.raises(StorageError) as caught:
        require_weights_of([parse_spec(spec)], SIZE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_machine_without_internet_is_told_what_to_do(site: Website, tmp_path: Path) -> None:
    with website(tmp_path, encrypted=False) as gone:
        port = gone.url.rpartition(":")[2]
    message = refused(f"hub:path=https://127.0.0.1:{port}/m/1")
    assert f"cannot download https://127.0.0.1:{port}/m/1?tf-hub-format=compressed: there is no connection" in message
    assert message.endswith("on a machine without internet give the file or its folder: hub:path=URI.tar.gz")


def test_a_server_is_not_believed_without_a_certificate(
    folder: Path, site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files[ASKED] = packed(folder)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert "its certificate is not accepted" in refused(f"hub:path={site.url}{HANDLE}")


def test_a_handle_does_not_lead_to_what_is_not_encrypted(folder: Path, site: Website, tmp_path: Path) -> None:
    with website(tmp_path, encrypted=False) as plain:
        plain.files["/m.tar.gz"] = packed(folder)
        site.redirects[ASKED] = f"{plain.url}/m.tar.gz"
        assert f"it leads to {plain.url}/m.tar.gz, which is not encrypted" in refused(f"hub:path={site.url}{HANDLE}")


def test_what_is_not_there_or_too_large_is_refused(
    folder: Path, site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "HTTP 404" in refused(f"hub:path={site.url}{HANDLE}")
    assert len(site.asked) == 1
    site.files[ASKED] = packed(folder)
    monkeypatch.setattr("lib.models.weights.LARGEST_DOWNLOAD_BYTES", 1000)
    assert "it is larger than 1000 bytes" in refused(f"hub:path={site.url}{HANDLE}")


@pytest.mark.parametrize("name", ["../outside", "/outside", "variables/../../outside"])
def test_a_file_outside_the_folder_is_never_written(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "m.tar.gz").write_bytes(with_member(folder, name))
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="has a file outside its folder"):
        unpack_saved_model(tmp_path / "m.tar.gz", tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(folder: Path, tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "m.tar.gz").write_bytes(with_member(folder, "assets/link", kind))
    with pytest.raises(ValueError, match="'assets/link', which is a link or device"):
        unpack_saved_model(tmp_path / "m.tar.gz", tmp_path / "in")


@pytest.mark.parametrize("bound", ["LARGEST_BYTES", "MOST_FILES"])
def test_an_archive_has_bounds(folder: Path, tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.tar.gz").write_bytes(packed(folder))
    monkeypatch.setattr(archives, bound, 3)
    with pytest.raises(ValueError, match="it is not used"):
        unpack_saved_model(tmp_path / "m.tar.gz", tmp_path / "in")


def test_an_archive_that_is_no_saved_model_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.tar.gz"
    spec = parse_spec(f"hub:path={file}")
    with pytest.raises(SettingsError, match="is not a SavedModel"):
        check_spec(spec, SIZE)
    contents = {
        b"an answer for people": "it is no .tar.gz",
        packed(folder)[:-2000]: "it is no .tar.gz, or a damaged one",
        packed(folder / "variables"): "0 files saved_model.pb; expected one SavedModel",
        with_member(folder, "second/saved_model.pb"): "2 files saved_model.pb",
        with_member(folder, "tfhub_module.pb"): "old TF1 Hub format",
    }
    for content, message in contents.items():
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=message) as caught:
            check_archive(spec)
        assert str(caught.value).startswith(f"model {spec.text!r}: ")
        assert "\n" not in str(caught.value)


def test_a_folder_may_be_demanded_by_the_checksum_that_model_json_tells(folder: Path) -> None:
    digest = weights_digest(parse_spec(f"hub:path={folder}"), SIZE)
    features_of(f"hub:path={folder},sha256={digest}")
    other = parse_spec(f"hub:path={folder},sha256={'0' * 64}")
    for refuse in (lambda: weights_digest(other, SIZE), lambda: build_base(other, SIZE)):
        with pytest.raises(TissueError, match=f"are another file: sha256 is {digest}, expected 0000"):
            refuse()
