"""Model SPECs: read, refused by name, and checked against what is there."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import SettingsError
from lib.models.networks import KERAS_NETWORKS
from lib.models.spec import ModelSpec, check_spec, folder_names, parse_spec
from lib.storage.location import Location
from tests.fakes.records import model_record

NAMES = ("cnn", "cnn_bn", "saved", "hub", "onnx", "keras_hub", *KERAS_NETWORKS)
SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("cnn", "cnn", {}),
        ("cnn:", "cnn", {}),
        ("cnn:normalise=none", "cnn", {"normalise": "none"}),
        ("vgg16", "vgg16", {}),
        ("inception_v3:weights=none", "inception_v3", {"weights": "none"}),
        ("efficientnet_b0:weights=imagenet", "efficientnet_b0", {"weights": "imagenet"}),
        ("mobilenet:alpha=0.25", "mobilenet", {"alpha": "0.25"}),
        ("mobilenet_v2:alpha=1.4,weights=/w/x.h5", "mobilenet_v2", {"alpha": "1.4", "weights": "/w/x.h5"}),
        ("vgg16:weights=gs://b/vgg=1.h5", "vgg16", {"weights": "gs://b/vgg=1.h5"}),
        ("vgg16:weights=/w.h5,sha256=" + SHA256.upper(), "vgg16", {"weights": "/w.h5", "sha256": SHA256}),
        ("saved:path=gs://b/models/cnn/", "saved", {"path": "gs://b/models/cnn"}),
        ("hub:path=gs://b/hub/vit/", "hub", {"path": "gs://b/hub/vit"}),
        ("hub:path=/m,output=pooled", "hub", {"path": "/m", "output": "pooled"}),
        ("hub:path=https://tfhub.dev/g/m/5", "hub", {"path": "https://tfhub.dev/g/m/5"}),
        ("onnx:path=gs://b/uni.onnx,size=224", "onnx", {"path": "gs://b/uni.onnx", "size": "224"}),
        ("onnx:path=/m,mean=0.5,std=0.1/0.2/0.3", "onnx", {"path": "/m", "mean": "0.5", "std": "0.1/0.2/0.3"}),
        ("keras_hub:path=/m,pool=cls_mean", "keras_hub", {"path": "/m", "pool": "cls_mean"}),
        ("keras_hub:preset=dinov2_base", "keras_hub", {"preset": "dinov2_base"}),
        ("hub:path=/m.tar.gz,sha256=" + SHA256, "hub", {"path": "/m.tar.gz", "sha256": SHA256}),
    ],
)
def test_a_good_spec_is_read(text: str, name: str, options: Mapping[str, str]) -> None:
    assert parse_spec(text) == ModelSpec(text, name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown model ''; expected one of"),
        ("vgg", "unknown model 'vgg' (did you mean vgg16 or vgg19?); expected one of"),
        ("ResNet50", "(did you mean resnet50 or resnet50_v2?)"),
        ("mobilnet-v2", "(did you mean mobilenet_v2"),
        ("unet", "unknown model 'unet'; expected one of"),
        ("VGG16", "unknown model 'VGG16'"),
        ("vgg16 ", "unknown model 'vgg16 '"),
        ("cnn:depth=3", "model 'cnn:depth=3': unknown option 'depth'; cnn takes normalise"),
        ("cnn:normalise=no", "normalise is 'no'; expected channels or none"),
        ("vgg16:alpha=1", "unknown option 'alpha'; vgg16 takes weights, taps, sha256"),
        ("vgg16:taps=first", "taps is 'first'; expected stages or last"),
        ("cnn:taps=last", "unknown option 'taps'"),
        ("mobilenet:beta=1", "unknown option 'beta'; mobilenet takes weights, taps, sha256, alpha"),
        ("vgg16:weights", "'weights' is not key=value"),
        ("vgg16:weights=", "'weights=' is not key=value"),
        ("mobilenet:alpha=wide", "alpha is 'wide'; expected a positive number"),
        ("mobilenet:alpha=0", "alpha is '0'"),
        ("mobilenet:alpha=-1", "alpha is '-1'"),
        ("mobilenet:alpha=nan", "alpha is 'nan'"),
        ("saved", "needs the folder of an earlier model: saved:path=URI"),
        ("hub", "needs the folder of a SavedModel: hub:path=URI"),
        ("hub:output=pooled", "needs the folder of a SavedModel: hub:path=URI"),
        ("hub:path=/m,weights=none", "unknown option 'weights'; hub takes path, output, sha256"),
        ("hub:path=/m,sha256=0", "sha256 is '0'; expected 64 hexadecimal digits"),
        ("onnx", "needs an .onnx file, or the folder of one: onnx:path=URI"),
        ("keras_hub", "needs the folder of an encoder (or preset=NAME): keras_hub:path=URI"),
        ("keras_hub:path=/m,preset=dinov2_base", "needs the folder of an encoder (or preset=NAME)"),
        ("keras_hub:path=/m,pool=max", "pool is 'max'; expected cls, mean or cls_mean"),
        ("hub:preset=dinov2_base", "unknown option 'preset'; hub takes path, output, sha256"),
        ("onnx:path=https://somewhere/m.onnx", "cannot open https://"),
        ("onnx:path=/m,size=0", "size is '0'; expected a number of pixels"),
        ("onnx:path=/m,mean=0.5/0.5", "mean is '0.5/0.5'; expected one number or three"),
        ("onnx:path=/m,mean=grey", "mean is 'grey'; expected one number or three"),
        ("onnx:path=/m,std=0", "std is '0'; expected one positive number or three"),
        ("onnx:path=/m,std=nan", "std is 'nan'; expected one positive number"),
        ("hub:path=http://tfhub.dev/m", "cannot open http://; expected a local path"),
        ("hub:path=https:///m", "https:///m names no server"),
        ("saved:path=https://tfhub.dev/m", "cannot open https://; expected a local path"),
        ("vgg16:weights=https://tfhub.dev/m", "cannot open https://; expected a local path"),
        ("vgg16:weights=/w.h5,sha256=abc", "sha256 is 'abc'; expected 64 hexadecimal digits"),
        (f"vgg16:sha256={SHA256}", "sha256 needs weights=URI, whose checksum it is"),
        (f"vgg16:weights=none,sha256={SHA256}", "sha256 needs weights=URI, whose checksum it is"),
        ("saved:weights=none", "unknown option 'weights'; saved takes path"),
    ],
)
def test_a_bad_spec_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_answered_with_all_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_spec("resnet")
    assert set(re.findall(r"[\w]+", str(caught.value).split("expected one of")[1])) == set(NAMES)


@pytest.mark.parametrize("text", ["saved:path= ", "mobilenet:alpha=inf", "mobilenet:alpha=1,alpha=0.5"])
def test_a_doubtful_option_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_spec(text)


def test_local_paths_in_options_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Path.cwd()
    assert parse_spec("saved:path=models/../cnn").options["path"] == f"{here}/cnn"
    assert parse_spec("vgg16:weights=w.h5").weights == f"{here}/w.h5"
    assert parse_spec("vgg16:weights=file:///w.h5").weights == "/w.h5"


@pytest.mark.parametrize(
    ("text", "weights", "learning_rate", "alpha"),
    [
        ("cnn", "none", 1e-3, 1),
        ("vgg16", "imagenet", 1e-2, 1),
        ("vgg16:weights=none", "none", 1e-3, 1),
        ("mobilenet:weights=/w.h5,alpha=0.25", "/w.h5", 1e-2, 0.25),
        ("saved:path=/m", "/m", 1e-2, 1),
        ("hub:path=/m", "/m", 1e-2, 1),
        ("keras_hub:preset=dinov2_base", "dinov2_base", 1e-2, 1),
    ],
)
def test_a_spec_says_its_weights_and_step_size(text: str, weights: str, learning_rate: float, alpha: float) -> None:
    spec = parse_spec(text)
    assert (spec.weights, spec.learning_rate, spec.alpha) == (weights, learning_rate, alpha)
    assert spec.has_frozen_base == (weights != "none")


@pytest.mark.parametrize(
    ("text", "smallest"),
    [("cnn", 8), ("vgg16", 32), ("xception", 71), ("inception_v3", 75), ("inception_resnet_v2:weights=none", 75)],
)
def test_images_too_small_for_the_network_are_refused(text: str, smallest: int) -> None:
    check_spec(parse_spec(text), smallest)
    with pytest.raises(
        SettingsError, match=rf"{smallest - 1} px \(see --image-size\) are too small.*at least {smallest} pixels"
    ):
        check_spec(parse_spec(text), smallest - 1)


def test_a_missing_weights_file_is_refused(tmp_path: Path) -> None:
    spec = parse_spec(f"vgg16:weights={tmp_path}/w.h5")
    with pytest.raises(SettingsError, match=f"no weights file at {tmp_path}/w.h5"):
        check_spec(spec, 64)
    (tmp_path / "w.h5").write_bytes(b"weights")
    check_spec(spec, 64)


def test_an_earlier_model_must_be_complete_and_of_the_same_image_size(tmp_path: Path) -> None:
    spec = parse_spec(f"saved:path={tmp_path}/m")
    with pytest.raises(SettingsError, match=r"m is not a complete folder: model\.json is missing.*jobs\.train"):
        check_spec(spec, 64)
    model_record(image_size=96).write(Location(str(tmp_path / "m")))
    check_spec(spec, 96)
    with pytest.raises(
        SettingsError, match="was trained on images of 96 px, and these have 64 px; it goes on with --image-size 96"
    ):
        check_spec(spec, 64)


def test_an_earlier_model_may_be_one_that_is_still_to_come(tmp_path: Path) -> None:
    check_spec(parse_spec(f"saved:path={tmp_path}/m"), 64, coming=[f"{tmp_path}/m"])
    with pytest.raises(SettingsError, match="not a complete folder"):
        check_spec(parse_spec(f"saved:path={tmp_path}/m"), 64, coming=[f"{tmp_path}/other"])


def test_models_of_one_name_are_numbered_from_the_second_on() -> None:
    texts = ["cnn", "vgg16", "cnn", "mobilenet:alpha=0.25", "cnn", "mobilenet", "mobilenet_v2"]
    names = folder_names([parse_spec(text) for text in texts])
    assert names == ["cnn", "vgg16", "cnn-2", "mobilenet", "cnn-3", "mobilenet-2", "mobilenet_v2"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(NAMES), max_size=12))
def test_no_two_models_share_a_folder(names: list[str]) -> None:
    folders = folder_names([ModelSpec(name, name) for name in names])
    assert len(set(folders)) == len(names)
    assert Counter(folder.split("-")[0] for folder in folders) == Counter(names)
