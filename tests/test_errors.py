"""User mistakes on the command line: exit code 2 and one sentence, never a traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from conftest import TINY
from examples import NETWORKS, random_image, weights, write_weights
from PIL import Image

import main
from common.settings import flatten, make_config
from images.files import read_rgb, write_rgb
from tf1 import checkpoints

GENERATOR = NETWORKS["tensorlayer"]
META = {"network": "SRGAN_g", "recipe": "test", "step": 1, "arguments": GENERATOR}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED_DIR", tmp_path / "pretrained")


@pytest.fixture
def training_refusal(refusal):
    """The same for training a tiny network."""

    def run(*settings, options=()):
        arguments = [argument for setting in (*TINY, *settings) for argument in ("--set", setting)]
        return refusal("--mode=srgan", *arguments, *options)

    return run


@pytest.fixture
def evaluation_refusal(refusal, tmp_path):
    """The same for evaluation with the weights of a file."""

    def run(path, *options):
        message = refusal("--mode=evaluate", "--weights", path, *options)
        assert not (tmp_path / "samples").exists()
        return message

    return run


# --- Settings and options: what is refused and why is listed in common/test_settings.py


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--set TRAIN.bach_size=4", "unknown setting TRAIN.bach_size: did you mean TRAIN.batch_size?"),
        ("--set TRAIN.batch_size=four", "TRAIN.batch_size must be a whole number, not 'four'"),
        ("--config my.json", "--config my.json"),
        ("--recipe papper", "unknown recipe 'papper': choose from tensorlayer, paper, cpu, photo, demo"),
        ("--mode=srgan --outscale 2", "unrecognized arguments: --outscale 2; see --help"),
        ("--mode=srgan --input a.png", "unrecognized arguments: --input a.png"),
        ("--mode=srgan --engine=ncnn", "unrecognized arguments: --engine=ncnn"),
        ("--mode=benchmark", "the following arguments are required: --input"),
        ("--mode=benchmark --input x --overwrite", "unrecognized arguments: --overwrite"),
        ("--mode=export --format onnx", "the following arguments are required: --output"),
        ("--mode=export --format png --output x", "argument --format: invalid choice: 'png'"),
        ("--mode=export --format onnx --output x --samples-dir y", "unrecognized arguments: --samples-dir y"),
        ("--mode=export --format ncnn --output x --engine=ncnn", "unrecognized arguments: --engine=ncnn"),
        ("--mode=page --port 65536", "argument --port: it must be from 0 to 65535, not 65536"),
        ("--mode=evaluate --restart", "unrecognized arguments: --restart"),
        (
            "--mode=evaluate --set TRAIN.seed=1",
            "--set TRAIN.seed=1: --mode=evaluate uses only VALID and RUNTIME settings",
        ),
        ("--mode=evaluate --format png", "--format needs --input and --output"),
        ("--mode=evaluate --shard 1/2", "--shard needs --input and --output"),
        ("--mode=evaluate --input a.png", "--input and --output"),
        ("--mode=evaluate --output results", "--input and --output"),
        ("--mode=evaluate --blend=a=0.7 --blend=b=0.7", "the shares of --blend must add up to at most 1"),
    ],
)
def test_wrong_settings_and_options_of_other_modes_are_refused(refusal, options, message):
    assert refusal(*options.split()).startswith(message)


@pytest.mark.parametrize(
    ("option", "values", "rule"),
    [
        ("--outscale", "0 -1 16.1 nan inf", "it must be above 0 and at most 16"),
        ("--shard", "0/2 3/2 2 a/b 1/0 -1/2 1.5/2", "write I/N with I from 1 to N, as in 3/8"),
        (
            "--blend",
            "b.npz b.npz= b.npz=much b.npz=1.5 b.npz=-1 b.npz=nan =0.5",
            "write NPZ=SHARE with a share from 0 to 1",
        ),
    ],
)
def test_values_out_of_range_are_refused(refusal, option, values, rule):
    for value in values.split():
        message = refusal("--mode=evaluate", "--input", "a", "--output", "b", f"{option}={value}")
        assert message.startswith(f"argument {option}: {rule}") and message.endswith(f", not {value}")


# --- Training


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("VGG.layer=conv9_9", "VGG.layer .*conv5_4"),
        ("TRAIN.hr_img_path=nowhere", "TRAIN.hr_img_path: .*'nowhere'"),
        ("TRAIN.hr_img_path=empty", "TRAIN.hr_img_path: .*'empty'"),
        ("TRAIN.hr_img_path=small", "TRAIN.hr_img_path: .*16 x 16"),
        ("TRAIN.hr_img_path=broken", ".*broken/bad.jpg"),
        ("TRAIN.hr_img_path=cut", ".*cut/bad.jpg"),  # its header is whole: found when it is decoded
        ("VALID.hr_img_path=nowhere", "VALID.hr_img_path: .*'nowhere'"),
        ("TRAIN.init_weights=absent_g.npz", ".*absent_g.npz"),
        ("VGG.weights=absent.npz", "VGG.weights: there is no file absent.npz"),
    ],
)
def test_bad_inputs_of_training_are_named(training_refusal, tmp_path, setting, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    write_rgb(tmp_path / "small/a.png", random_image(15, 30))
    write_rgb(tmp_path / "small/b.png", random_image(30, 15))
    write_rgb(tmp_path / "broken/good.png", random_image(20, 24))
    (tmp_path / "broken/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    cut = tmp_path / "cut/bad.jpg"
    write_rgb(cut, random_image(200, 200))
    cut.write_bytes(cut.read_bytes()[:5000])
    assert re.match(words, training_refusal(setting))
    assert not (setting.startswith("VGG") and (tmp_path / "checkpoint").exists())


def test_runs_do_not_continue_with_other_settings(training_refusal, tmp_path):
    config = make_config(settings=TINY)
    state = tmp_path / "checkpoint/srgan_state.npz"
    checkpoints.write_npz(state, {}, {"step": 3, "sums": {}, "facts": {}, "config": config})
    before = state.read_bytes()
    message = training_refusal("TRAIN.beta1=0.5", "VALID.hr_img_path=sample")
    assert "TRAIN.beta1 was 0.9, is 0.5" in message
    assert "--restart" in message and "--checkpoint-dir" in message
    assert not any(key in message for key, _ in flatten(config) if key != "TRAIN.beta1")
    assert state.read_bytes() == before
    assert sorted(path.name for path in state.parent.iterdir()) == [".lock", "srgan_state.npz"]


# --- Generator weights


def test_evaluation_without_weights_names_folder_and_ways_out(refusal):
    message = refusal("--mode=evaluate", "--checkpoint-dir", "runs/one")
    assert all(words in message for words in ("runs/one", "--mode=srgan", "--weights"))


def write_generator(path, *, lacking=None, arguments=GENERATOR, held=GENERATOR):
    """Weights of the network `held`, but for those whose names end with `lacking`."""
    arrays = {name: array for name, array in weights(held).items() if not name.endswith(lacking or "-")}
    checkpoints.write_npz(path, arrays, {**META, "arguments": arguments})


ANOTHER = "x.npz does not fit this network: "


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no checkpoint x.npz"),
        (lambda path: path.mkdir(), "x.npz is a folder"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "x.npz is damaged or not a checkpoint"),
        (lambda path: np.savez(path, weights=np.zeros(3)), "x.npz is not a checkpoint of this program"),
        (lambda path: np.savez(path, params=np.zeros(3)), "x.npz is damaged"),  # TensorLayer's name
        (lambda path: np.savez(path, __meta__=np.array('{"format_version": 99}')), "format version 99"),
        (lambda path: np.savez(path, __meta__=np.array("[]")), "its __meta__ is not a JSON object"),
        (lambda path: write_weights(path, network="SRGAN_d"), "holds SRGAN_d, not the network SRGAN_g"),
        (lambda path: checkpoints.write_npz(path, {}, {"step": 3}), "holds a training state, not the net"),
        *(
            (partial(write_generator, arguments={**GENERATOR, name: value}), message)
            for name, value, message in (
                ("num_filters", 8, f"{ANOTHER}SRGAN_g/n64s1/c/filters is (3, 3, 3, 4), not (3, 3, 3, 8)"),
                ("num_filters", "four", "x.npz describes an unknown network"),
                ("num_blocks", 3, f"{ANOTHER}it lacks 'SRGAN_g/n64s1/b1/2/gamma'"),
                ("activation", "prelu", f"{ANOTHER}it lacks SRGAN_g/n64s1/a/alpha"),
                ("scale", 8, f"{ANOTHER}it lacks SRGAN_g/n256s1/3/filters"),
            )
        ),
        (partial(write_generator, arguments={"num_filters": 4}), f"{ANOTHER}it lacks"),
        (
            partial(write_generator, held={**GENERATOR, "num_blocks": 3}),
            f"{ANOTHER}SRGAN_g/n64s1/b1/2/beta is unexpected",
        ),
        *(
            (partial(write_generator, lacking=end), f"{ANOTHER}it lacks")
            for end in ("b1/0/gamma", "b1/0/moving_var", "c1/0/filters", "out/biases")
        ),
    ],
)
def test_files_that_are_not_the_generator_they_describe_are_refused(
    evaluation_refusal, tmp_path, write, message
):
    write(tmp_path / "x.npz")
    assert message in evaluation_refusal("x.npz")


def test_blending_with_missing_or_different_weights_is_refused(evaluation_refusal, tmp_path):
    path = write_weights(tmp_path / "a.npz")
    assert "b.npz" in evaluation_refusal(path, "--blend=b.npz=0.5")
    write_weights(tmp_path / "b.npz", {**GENERATOR, "num_filters": 8})
    message = evaluation_refusal(path, "--blend=b.npz=0.5")
    assert "b.npz cannot be blended with" in message and "a.npz" in message


# --- Files in and out


def test_folders_that_cannot_be_written_are_named(evaluation_refusal, training_refusal, tmp_path):
    path = write_weights(tmp_path / "mine.npz")
    write_rgb(tmp_path / "a.png", random_image(20, 24))
    (tmp_path / "file").touch()
    message = evaluation_refusal(path, "--samples-dir", "file/samples", "--set", "VALID.hr_img_path=a.png")
    assert "file/samples" in message
    message = training_refusal(options=["--checkpoint-dir", "file/checkpoint"])
    assert "--checkpoint-dir" in message and "file/checkpoint" in message


# --- The start of TensorFlow, which takes seconds

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # importing it fails
import main
for line in sys.stdin:
    assert main.main(["--checkpoint-dir=run", *line.split()]) == 2, line
assert main.main(["--checkpoint-dir=run", "--mode=evaluate", "--input=a.png", "--output=done"]) == 0
"""


def test_what_needs_no_network_does_not_start_tensorflow(tmp_path):
    for name in ("a.png", "set/a.png"):
        write_rgb(tmp_path / name, random_image(8, 8))
    write_weights(tmp_path / "run/g_srgan.npz")
    write_weights(tmp_path / "other.npz", seed=1)
    assert (
        main.main(["--mode=evaluate", "--checkpoint-dir", "run", "--input", "a.png", "--output", "done"]) == 0
    )
    mistakes = """
        --mode=evaluate --input nowhere.png --output out
        --mode=evaluate --input a.png --output a.png/out
        --mode=evaluate --input a.png --output done --weights other.npz
        --mode=evaluate --set VALID.hr_img_path=nowhere.png
        --mode=evaluate --weights nowhere.npz
        --mode=evaluate --blend nowhere.npz=0.5
        --mode=benchmark --input nowhere
        --mode=benchmark --input set --output a.png/out
        --mode=export --format onnx --output out --weights nowhere.npz
        --mode=page --weights nowhere.npz
    """
    command, root = [sys.executable, "-c", WITHOUT_TENSORFLOW], os.path.dirname(main.__file__)
    lines = "\n".join(mistakes.split("\n")[1:-1])
    ended = subprocess.run(
        command, input=lines, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("error: ") == lines.count("--mode") == 10


# --- The process


def start_main(*arguments, prefix="", **options):
    command = f"{prefix} exec {sys.executable} {main.__file__} {' '.join(arguments)}"
    return subprocess.Popen(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_ctrl_c_before_the_start_ends_without_a_traceback():
    with start_main("--mode=evaluate") as process:
        time.sleep(0.3)  # the interpreter itself has started
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode in (-signal.SIGINT, 130)
    assert b"Traceback" not in err


def test_closed_streams_do_not_end_the_program_or_spoil_its_files(tmp_path):
    path = write_weights(tmp_path / "g.npz")
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    arguments = ["--mode=evaluate", "--weights", str(path), "--input", "a.png", "--output", "out"]
    with start_main(*arguments, prefix="exec <&- >&- 2>&-;", cwd=tmp_path) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert read_rgb(tmp_path / "out/a_x4.png").shape == (16, 20, 3)
