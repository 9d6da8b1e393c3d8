"""Exports: what each engine makes of them is what the program makes."""

import re
import sys

import numpy as np
import pytest
import tensorflow as tf
from examples import NETWORKS, SCALED, SETTINGS, random_image, weights

from common.errors import UserError
from main import EXPORT_FORMATS
from tf1 import checkpoints
from upscaling import export as exporting
from upscaling.export import NAMES, engine, export
from upscaling.upscaler import Upscaler, load_generator

NEEDS = {"onnx": ("tf2onnx", "onnxruntime"), "tflite": ("ai_edge_litert",), "ncnn": ("ncnn",)}
ARGUMENTS = {key: value for key, value in NETWORKS["tensorlayer"].items() if key != "init"}
META = {"arguments": ARGUMENTS, "recipe": "test", "step": 1}


@pytest.fixture(scope="module")
def arrays():
    return weights()


def require(format):
    for package in NEEDS.get(format.partition("-")[0], ()):
        pytest.importorskip(package, reason="pip install -r requirements-export.txt")


@pytest.mark.parametrize("format", [name for name in NAMES if name != "tensorlayer"])
def test_an_export_makes_the_programs_pictures_of_any_size_and_number(tmp_path, arrays, format):
    require(format)
    export(arrays, META, SETTINGS, tmp_path, format)
    run = engine(tmp_path / NAMES[format].format(4), format)
    with Upscaler(arrays, META["arguments"], SETTINGS) as upscaler:
        for height, width in ((1, 1), (17, 30)):
            images = np.stack([random_image(height, width, seed=seed) for seed in (0, 1)])
            expected = np.stack([upscaler(image) for image in images])
            made = run(images)
            assert made.dtype == np.uint8 and made.shape == expected.shape
            assert np.abs(made.astype(int) - expected).max() <= 1
    card = (tmp_path / "README.md").read_text()
    assert f"- {NAMES[format].format(4)}: differs from the program by at most" in card and "Licence" in card


@pytest.mark.parametrize(("format", "scale"), [("savedmodel", 2), ("onnx", 3), ("tflite", 8)])
def test_other_scales_are_exported(tmp_path, format, scale):
    require(format)
    arguments = SCALED[f"x{scale}"]
    export(weights(arguments), {**META, "arguments": arguments}, SETTINGS, tmp_path, format)
    sr = engine(tmp_path / NAMES[format].format(scale), format)(random_image(5, 7)[None])
    assert sr.shape == (1, 5 * scale, 7 * scale, 3)
    assert f"# SRGAN x{scale}" in (tmp_path / "README.md").read_text()


def test_the_savedmodel_serves_bytes_and_floats(tmp_path, arrays):
    export(arrays, META, SETTINGS, tmp_path, "savedmodel")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "savedmodel"))
        signatures = loaded.signature_def
        assert set(signatures) == {"serving_default", "float"}
        image = random_image(5, 7)[None]
        made = {}
        for name, value in (("serving_default", image), ("float", image / 255)):
            inputs, outputs = signatures[name].inputs, signatures[name].outputs
            made[name] = session.run(outputs["output_image"].name, {inputs["input_image"].name: value})
    assert made["serving_default"].dtype == np.uint8
    np.testing.assert_allclose(made["float"] * 255, made["serving_default"], atol=0.51)


@pytest.mark.parametrize("format", ["savedmodel", "tflite", "ncnn"])
def test_an_export_that_differs_is_refused_and_removed(tmp_path, arrays, monkeypatch, format):
    require(format)
    nearest = lambda images: images.repeat(4, axis=1).repeat(4, axis=2)  # noqa: E731
    monkeypatch.setattr(exporting, "engine", lambda path, format: nearest)
    with pytest.raises(UserError, match=r"differs from the program by \d+ 8-bit values: not written"):
        export(arrays, META, SETTINGS, tmp_path, format)
    assert not [path for path in tmp_path.iterdir() if path.name != "README.md"]


def test_ncnns_files_are_described(tmp_path, arrays, caplog):
    require("ncnn")
    caplog.set_level("INFO", "srgan")
    export(arrays, META, SETTINGS, tmp_path, "ncnn")
    assert {path.name for path in tmp_path.iterdir()} == {"srgan_x4.param", "srgan_x4.bin", "README.md"}
    assert re.search(r"with float16 storage by [01]; largest activation \d", caplog.text)
    lines = (tmp_path / "srgan_x4.param").read_text().splitlines()
    assert lines[0] == "7767517" and lines[2] == "Input data 0 1 data" and " output" in lines[-1]
    (tmp_path / "srgan_x4.param").unlink()
    with pytest.raises(UserError, match=r"srgan_x4\.bin already exists"):
        export(arrays, META, SETTINGS, tmp_path, "ncnn")


def test_tensorlayers_list_is_that_of_the_notes_network_only(tmp_path, arrays):
    with pytest.raises(UserError, match="num_blocks is 2 there and 16 here"):
        export(arrays, META, SETTINGS, tmp_path, "tensorlayer")


def test_the_shipped_weights_go_to_tensorlayer_and_back(tmp_path, caplog):
    caplog.set_level("INFO", "srgan")
    shipped, meta = load_generator(checkpoints.locate("srgan"))
    export(shipped, meta, SETTINGS, tmp_path, "tensorlayer")
    with np.load(tmp_path / "g_srgan.npz", allow_pickle=True) as file:
        assert len(file["params"]) == 173
    read, meta_of_list = load_generator(tmp_path / "g_srgan.npz")
    assert read.keys() == shipped.keys() and meta_of_list["arguments"] == meta["arguments"]
    assert all(np.array_equal(read[name], shipped[name]) for name in shipped)
    assert "a list of TensorLayer 1.x" in caplog.text


def test_nothing_is_overwritten(tmp_path, arrays):
    export(arrays, META, SETTINGS, tmp_path, "savedmodel")
    with pytest.raises(UserError, match="savedmodel already exists"):
        export(arrays, META, SETTINGS, tmp_path, "savedmodel")
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("mine")
    with pytest.raises(UserError, match="not a model card"):
        export(arrays, META, SETTINGS, other, "savedmodel")
    assert (other / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "tf2onnx"), ("tflite", "ai_edge_litert.interpreter")]
)
def test_a_missing_package_is_one_sentence_and_leaves_no_file(tmp_path, arrays, monkeypatch, format, package):
    """One that converts, and the engine that checks what was converted."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"--format {format} needs the package {package}: pip install -r"):
        export(arrays, META, SETTINGS, tmp_path, format)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_knows_the_formats():
    assert (*NAMES, "all") == EXPORT_FORMATS
    assert exporting.WRITERS.keys() == NAMES.keys()
