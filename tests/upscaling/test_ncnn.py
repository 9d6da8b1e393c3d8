"""ncnn's files and engine: what they make is what the program makes by TensorFlow."""

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from examples import NETWORKS, SETTINGS, random_image, weights

from common.errors import UserError
from common.settings import make_config
from images.files import read_rgb, write_rgb
from images.photos import validation_photo
from tf1 import checkpoints
from upscaling import ncnn
from upscaling.page import Page
from upscaling.upscaler import Upscaler, load_generator

pytest.importorskip("ncnn", reason="pip install -r requirements-export.txt")

ROOT = Path(__file__).parents[2]
PHOTO = validation_photo()[100:124, 100:130]
ARGUMENTS = {
    name: {key: value for key, value in arguments.items() if key != "init"}
    for name, arguments in NETWORKS.items()
}
ARGUMENTS["linear"] = {**ARGUMENTS["tensorlayer"], "output_activation": "linear"}
ARGUMENTS["even"] = {**ARGUMENTS["paper"], "first_kernel": 4, "last_kernel": 2, "num_filters": 5}
ARGUMENTS["prelu, 1x1"] = {**ARGUMENTS["tensorlayer"], "activation": "prelu"}
ARGUMENTS |= {
    f"{name}, x{scale}": {**ARGUMENTS[name], "scale": scale} for name in NETWORKS for scale in (2, 3, 8)
}


@contextlib.contextmanager
def both_engines(arrays, arguments):
    """The network by TensorFlow, and by ncnn."""
    with (
        Upscaler(arrays, arguments, SETTINGS) as by_tensorflow,
        Upscaler(arrays, arguments, SETTINGS, engine="ncnn") as by_ncnn,
    ):
        yield by_tensorflow, by_ncnn


@pytest.fixture(scope="module")
def shipped():
    arrays, meta = load_generator(checkpoints.locate("srgan"))
    with Upscaler(arrays, meta["arguments"], SETTINGS, engine="ncnn") as upscaler:
        yield upscaler


def difference(first, second) -> int:
    assert first.dtype == second.dtype and first.shape == second.shape
    return np.abs(first.astype(int) - second).max()


@pytest.mark.parametrize("network", ARGUMENTS)
def test_every_network_gives_the_programs_images(network):
    arguments = ARGUMENTS[network]
    with both_engines(weights(arguments), arguments) as (expected, made):
        for size in ((1, 1), (17, 30)):
            assert difference(made(random_image(*size)), expected(random_image(*size))) <= 1
        deep = random_image(17, 30, dtype=np.uint16)
        assert difference(made(deep), expected(deep)) <= 8  # of 65535
        assert made(deep).std() > 1000  # not a constant image
        for name in ("num_filters", "trunk_halo", "head_halo"):
            assert getattr(made.engine, name) == getattr(expected.engine, name)


@pytest.mark.parametrize("name", checkpoints.SHIPPED)
def test_shipped_weights_give_the_programs_image(name):
    arrays, meta = load_generator(checkpoints.locate(name))
    with both_engines(arrays, meta["arguments"]) as (expected, made):
        assert difference(made(PHOTO), expected(PHOTO)) <= 1


def test_tiles_give_the_whole_image_within_one_level(shipped, monkeypatch):
    """Winograd's sums depend on where a pixel lies in a tile: not bit for bit."""
    lr = np.tile(validation_photo()[:60, :60], (2, 2, 1))
    whole, calls = shipped(lr), []
    halo = shipped.engine.trunk_halo + shipped.engine.head_halo
    monkeypatch.setattr(shipped, "_trunk_px", (2 * halo + 41) ** 2)
    monkeypatch.setattr(shipped, "_head_px", 31**2)
    assert difference(shipped(lr, progress=calls.append), whole) <= 1
    assert len(calls) > 9 and calls[-1] == 1.0


def test_the_page_runs_it(tmp_path, shipped):
    page = Page(SETTINGS, checkpoints.locate("srgan"), "ncnn")
    write_rgb(tmp_path / "photo.png", PHOTO)
    _, file = page.enlarge(tmp_path / "photo.png", page.default, 0.0, 4.0, tmp_path, lambda done: None)
    assert np.array_equal(read_rgb(file), shipped(PHOTO))


def test_the_engine_imports_no_tensorflow(tmp_path):
    write_rgb(tmp_path / "photo.png", random_image(9, 14))
    argv = ["--mode=evaluate", "--engine=ncnn", f"--input={tmp_path / 'photo.png'}", f"--output={tmp_path}"]
    code = (
        f"import sys, main\nassert main.main({argv}) == 0\n"
        "assert not {'tensorflow', 'tensorlayer', 'matplotlib', 'scipy.ndimage'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Upscaling on CPU, by ncnn" in done.stdout and (tmp_path / "photo_x4.png").exists()


def test_what_ncnn_cannot_do_is_refused(monkeypatch, refusal):
    command = ("--mode=evaluate", "--weights=srgan")
    message = refusal(*command, "--engine=ncnn", "--set", "RUNTIME.precision=bfloat16")
    assert "RUNTIME.precision=bfloat16 needs --engine tensorflow" in message
    monkeypatch.setattr(ncnn, "count_gpus", lambda: 0)
    assert "ncnn found no GPU with Vulkan" in refusal(*command, "--engine=ncnn-vulkan")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    needed = f"--engine ncnn needs the package ncnn: pip install ncnn=={ncnn.VERSION}"
    assert needed in refusal(*command, "--engine=ncnn")
    assert f"ncnn=={ncnn.VERSION}" in (ROOT / "requirements-export.txt").read_text().splitlines()


def test_vulkan_gives_the_programs_image(tmp_path):
    """In processes of its own: a software driver's LLVM and TensorFlow's do not bear each other."""
    write_rgb(tmp_path / "a.png", PHOTO)
    made = []
    for engine in ("ncnn", "ncnn-vulkan"):
        command = [sys.executable, "main.py", "--mode=evaluate", "--weights=photo", f"--engine={engine}"]
        command += ["--input", tmp_path / "a.png", "--output", tmp_path / f"{engine}.png"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if "ncnn found no GPU with Vulkan" in done.stderr:
            pytest.skip("needs a GPU with Vulkan, or a driver that computes in software")
        assert done.returncode == 0, done.stderr
        made.append(read_rgb(tmp_path / f"{engine}.png"))
    assert difference(*made) <= 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_blocks": 3}, "it lacks 'SRGAN_g/n64s1/c1/2/filters'"),
        ({"num_blocks": 1}, "SRGAN_g/n64s1/c1/1/biases is unexpected"),
        ({"num_filters": 8}, r"c/filters is \(3, 3, 3, 4\), not \(3, 3, 3, 8\)"),
        ({"unheard_of": 1}, "unknown network"),
        ({"activation": "selu"}, "unknown network"),
        ({"scale": 5}, "unknown network: scale 5"),
        ({"num_blocks": "2"}, "unknown network"),
    ],
)
def test_weights_that_do_not_fit_their_description_are_refused(arguments, sentence):
    described = {**ARGUMENTS["tensorlayer"], **arguments}
    with pytest.raises(UserError, match=f"x.npz.*{sentence}"):
        Upscaler(weights(), described, SETTINGS, source="x.npz", engine="ncnn")


def test_float16_rounds_every_blob(tmp_path):
    arrays = weights(ARGUMENTS["paper"])
    image = random_image(9, 7) / np.float32(255)
    for float16 in (False, True):
        ncnn.Network(arrays, ARGUMENTS["paper"], float16=float16).write(tmp_path / f"{float16}.param")
    values = np.fromfile(tmp_path / "True.bin", "<f4")
    assert values.size > 1000 and np.array_equal(values, values.astype(np.float16))
    exact, rounded = (ncnn.Runner(tmp_path / f"{float16}.param") for float16 in (False, True))
    for blob in ("n64s1/c", "b_residual_add/0", ncnn.TRUNK, "output"):
        values = rounded(image, target=blob)
        assert np.array_equal(values, values.astype(np.float16))
        assert 0 < np.abs(values - exact(image, target=blob)).max() < 1e-2
    largest = exact.largest_activation(image)
    assert largest >= np.abs(exact(image, target=ncnn.TRUNK)).max()


def test_threads_are_as_set():
    settings = make_config(settings=["RUNTIME.intra_op_threads=1"]).RUNTIME
    with Upscaler(weights(), ARGUMENTS["tensorlayer"], settings, engine="ncnn") as upscaler:
        assert upscaler.engine._run._net.opt.num_threads == 1
