"""User mistakes on the command line: exit code 2 and one sentence, never a traceback."""

import functools
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from PIL import Image

import main
from common.settings import flatten, make_config
from images.files import read_rgb
from model import SRGAN_g
from tf1 import checkpoints

GENERATOR = {**make_config().MODEL.generator, "num_blocks": 1, "num_filters": 4}
TINY_ARGUMENTS = [argument for setting in TINY for argument in ("--set", setting)]
BROKEN_JPEG = b"\xff\xd8\xff\xe0 and then nothing"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED_DIR", tmp_path / "pretrained")


@pytest.fixture
def refusal(capsys):
    """Runs the command line, which must refuse; returns its sentence."""

    def run(*argv):
        capsys.readouterr()
        assert main.main([str(argument) for argument in argv]) == 2
        stderr = capsys.readouterr().err
        assert stderr.startswith("error: ") and stderr.endswith("\n") and stderr.count("\n") == 1
        return stderr.removeprefix("error: ").rstrip("\n")

    return run


@pytest.fixture
def training_refusal(refusal):
    """The same for training a tiny network."""

    def run(*settings, options=()):
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        return refusal("--mode=srgan", *TINY_ARGUMENTS, *arguments, *options)

    return run


@pytest.fixture
def evaluation_refusal(refusal, tmp_path):
    """The same for evaluation with the weights of a file."""

    def run(path, *options):
        message = refusal("--mode=evaluate", "--weights", path, *options)
        assert not (tmp_path / "samples").exists()
        return message

    return run


def write_photo(path, height=20, width=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@functools.cache
def generator_arrays(**changes):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        net = SRGAN_g(tf.zeros([1, 8, 8, 3]), **{**GENERATOR, **changes})
        session.run(tf.compat.v1.global_variables_initializer())
        return checkpoints.fetch(session, net.all_params)


def write_generator(path, arrays=None, network="SRGAN_g", arguments=GENERATOR):
    meta = {"network": network, "recipe": "tiny", "step": 0, "arguments": arguments}
    checkpoints.write_npz(path, arrays or generator_arrays(), meta)
    return path


# --- Settings and options: what is refused and why is listed in common/test_settings.py


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "TRAIN.bach_size=4"], "unknown setting TRAIN.bach_size: did you mean TRAIN.batch_size?"),
        (["--set", "TRAIN.batch_size=four"], "TRAIN.batch_size must be a whole number, not 'four'"),
        (["--config", "my.json"], "--config my.json"),
        (["--mode=srgan", "--outscale", "2"], "unrecognized arguments: --outscale 2; see --help"),
        (["--mode=srgan", "--input", "a.png"], "unrecognized arguments: --input a.png"),
        (["--mode=benchmark"], "the following arguments are required: --input"),
        (["--mode=benchmark", "--input", "x", "--overwrite"], "unrecognized arguments: --overwrite"),
        (["--mode=export", "--format", "onnx"], "the following arguments are required: --output"),
        (["--mode=export", "--format", "png", "--output", "x"], "argument --format: invalid choice: 'png'"),
        (
            ["--mode=export", "--format", "onnx", "--output", "x", "--samples-dir", "y"],
            "unrecognized arguments: --samples-dir y",
        ),
        (["--mode=page", "--port", "65536"], "argument --port: it must be 0 to 65535, not 65536"),
        (["--mode=evaluate", "--restart"], "unrecognized arguments: --restart"),
        (
            ["--mode=evaluate", "--set", "TRAIN.seed=1"],
            "--set TRAIN.seed=1: --mode=evaluate uses VALID and RUNTIME",
        ),
        (["--mode=evaluate", "--format", "png"], "--format needs --input and --output"),
        (["--mode=evaluate", "--shard", "1/2"], "--shard needs --input and --output"),
        (["--mode=evaluate", "--input", "a.png"], "--input and --output"),
        (["--mode=evaluate", "--output", "results"], "--input and --output"),
        (
            ["--mode=evaluate", "--blend=a.npz=0.7", "--blend=b.npz=0.7"],
            "the shares of --blend must add up to at most 1",
        ),
    ],
)
def test_wrong_settings_and_options_of_other_modes_are_refused(refusal, options, message):
    assert refusal(*options).startswith(message)


@pytest.mark.parametrize(
    ("option", "values", "rule"),
    [
        ("--outscale", ["0", "-1", "16.1", "nan", "inf"], "it must be above 0 and at most 16"),
        (
            "--shard",
            ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1.5/2"],
            "write I/N with I from 1 to N, as in 3/8",
        ),
        (
            "--blend",
            ["b.npz", "b.npz=", "b.npz=much", "b.npz=1.5", "b.npz=-1", "b.npz=nan", "=0.5"],
            "write NPZ=SHARE with a share from 0 to 1",
        ),
    ],
)
def test_values_out_of_range_are_refused(refusal, option, values, rule):
    for value in values:
        message = refusal("--mode=evaluate", "--input", "a", "--output", "b", f"{option}={value}")
        assert message.startswith(f"argument {option}: {rule}") and message.endswith(f", not {value}")


def test_unknown_recipes_are_refused_with_the_known_ones(refusal):
    message = refusal("--recipe", "papper")
    assert "'papper'" in message and "tensorlayer, paper, cpu, photo, demo" in message


# --- Training


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("VGG.layer=conv9_9", "conv5_4"),
        ("TRAIN.hr_img_path=nowhere", "'nowhere'"),
        ("TRAIN.hr_img_path=empty", "'empty'"),
        ("TRAIN.hr_img_path=small", "16 x 16"),
        ("TRAIN.hr_img_path=broken", "broken/bad.jpg"),
        ("TRAIN.hr_img_path=cut", "cut/bad.jpg"),  # its header is whole: found when it is decoded
        ("VALID.hr_img_path=nowhere", "'nowhere'"),
        ("TRAIN.init_weights=absent_g.npz", "absent_g.npz"),
    ],
)
def test_bad_inputs_of_training_are_named(training_refusal, tmp_path, setting, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    write_photo(tmp_path / "small/a.png", 15, 30)
    write_photo(tmp_path / "small/b.png", 30, 15)
    write_photo(tmp_path / "broken/good.png")
    (tmp_path / "broken/bad.jpg").write_bytes(BROKEN_JPEG)
    cut = write_photo(tmp_path / "cut/bad.jpg", 200, 200)
    cut.write_bytes(cut.read_bytes()[:5000])
    message = training_refusal(setting)
    assert words in message
    if "/" not in words and "init" not in setting:
        assert setting.partition("=")[0] in message


@pytest.mark.parametrize("setting", ["auto", "absent.npz"])
def test_training_without_vgg_weights_stops_before_it_begins(
    training_refusal, tmp_path, monkeypatch, setting
):
    def get_file(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(tf.keras.utils, "get_file", get_file)
    message = training_refusal(f"VGG.weights={setting}", "VGG.on_missing=stop")
    assert ("no route to host" if setting == "auto" else setting) in message and "VGG.weights" in message
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == [".lock"]


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


def test_losses_that_explode_stop_the_run(training_refusal):
    message = training_refusal(
        "TRAIN.lr_init=1e30",  # after the first step no loss is finite
        "MODEL.generator.output_activation=linear",
    )
    assert "the last 10 steps were not finite" in message
    assert "--restart --set TRAIN.lr_init=1e+29" in message


# --- Generator weights


def test_evaluation_without_weights_names_folder_and_ways_out(refusal):
    message = refusal("--mode=evaluate", "--checkpoint-dir", "runs/one")
    assert all(words in message for words in ("runs/one", "--mode=srgan", "--weights"))


@pytest.mark.parametrize(
    "arguments",
    [
        *({**GENERATOR, name: value} for name, value in (("num_filters", 8), ("num_filters", "four"))),
        *({**GENERATOR, name: value} for name, value in (("num_blocks", 2), ("first_kernel", 9))),
        *({**GENERATOR, name: value} for name, value in (("activation", "prelu"), ("scale", 8))),
        {"num_filters": 4},
    ],
)
def test_weights_of_another_network_than_they_say_are_refused(evaluation_refusal, tmp_path, arguments):
    assert "mine.npz" in evaluation_refusal(write_generator(tmp_path / "mine.npz", arguments=arguments))


def test_weights_with_too_many_or_too_few_arrays_are_refused(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "many.npz", generator_arrays(num_blocks=2))
    assert "many.npz does not fit this network" in evaluation_refusal(path)
    for end in ("b1/0/gamma", "b1/0/moving_var", "c1/0/filters", "out/biases"):
        arrays = {name: array for name, array in generator_arrays().items() if not name.endswith(end)}
        message = evaluation_refusal(write_generator(tmp_path / "few.npz", arrays))
        assert "few.npz does not fit this network" in message and end in message


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "x.npz"),
        (lambda path: path.mkdir(), "x.npz is a folder"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "x.npz is damaged or not a checkpoint"),
        (lambda path: np.savez(path, weights=np.zeros(3)), "x.npz is not a checkpoint of this program"),
        (lambda path: np.savez(path, params=np.zeros(3)), "x.npz is damaged"),  # TensorLayer's name
        (lambda path: np.savez(path, __meta__=np.array('{"format_version": 99}')), "format version 99"),
        (lambda path: np.savez(path, __meta__=np.array("[]")), "x.npz"),
        (lambda path: write_generator(path, network="SRGAN_d"), "holds SRGAN_d, not the network SRGAN_g"),
        (
            lambda path: checkpoints.write_npz(path, {}, {"step": 3}),
            "holds a training state, not the network",
        ),
    ],
)
def test_files_that_are_no_generator_are_refused(evaluation_refusal, tmp_path, write, message):
    write(tmp_path / "x.npz")
    assert message in evaluation_refusal("x.npz")


def test_blending_with_missing_or_different_weights_is_refused(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "a.npz")
    assert "b.npz" in evaluation_refusal(path, "--blend=b.npz=0.5")
    write_generator(
        tmp_path / "b.npz", generator_arrays(num_filters=8), arguments={**GENERATOR, "num_filters": 8}
    )
    message = evaluation_refusal(path, "--blend=b.npz=0.5")
    assert "b.npz cannot be blended with" in message and "a.npz" in message


# --- Files in and out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "nowhere.png", "--output", "results"], ["--input", "'nowhere.png'"]),
        (["--input", "a.png", "--output", "file/results"], ["--output", "file/results"]),
        (["--samples-dir", "file/samples", "--set", "VALID.hr_img_path=a.png"], ["file/samples"]),
    ],
)
def test_missing_inputs_and_unwritable_outputs_are_named(evaluation_refusal, tmp_path, options, words):
    path = write_generator(tmp_path / "mine.npz")
    write_photo(tmp_path / "a.png")
    (tmp_path / "file").touch()
    message = evaluation_refusal(path, *options)
    assert all(word in message for word in words) and not (tmp_path / "results").exists()


def test_checkpoint_folders_that_cannot_be_written_are_named(training_refusal, tmp_path):
    (tmp_path / "file").touch()
    message = training_refusal(options=["--checkpoint-dir", "file/checkpoint"])
    assert "--checkpoint-dir" in message and "file/checkpoint" in message


def test_one_unreadable_input_fails_alone(tmp_path, capsys):
    """The exception to exit code 2: the other images are upscaled, and the exit code is 1."""
    path = write_generator(tmp_path / "mine.npz")
    write_photo(tmp_path / "photos/good.png", 5, 6)
    (tmp_path / "photos/bad.jpg").write_bytes(BROKEN_JPEG)
    assert (
        main.main(["--mode=evaluate", f"--weights={path}", "--input", "photos", "--output", "results"]) == 1
    )
    stderr = capsys.readouterr().err
    assert "bad.jpg" in stderr.splitlines()[-1] and "Traceback" not in stderr
    assert read_rgb(tmp_path / "results/good_x4.png").shape == (20, 24, 3)


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
    path = write_generator(tmp_path / "g.npz")
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    arguments = ["--mode=evaluate", "--weights", str(path), "--input", "a.png", "--output", "out"]
    with start_main(*arguments, prefix="exec <&- >&- 2>&-;", cwd=tmp_path) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert read_rgb(tmp_path / "out/a_x4.png").shape == (16, 20, 3)
