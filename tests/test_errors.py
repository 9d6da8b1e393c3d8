"""User mistakes on the command line: exit code 2 and one sentence, never a traceback."""

import gc
import json
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
        assert stderr.startswith("error: ")
        assert stderr.endswith("\n") and stderr.count("\n") == 1
        assert "Traceback" not in stderr
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


def write_picture(path, height=20, width=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def generator_arrays(**arguments):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        net = SRGAN_g(tf.zeros([1, 8, 8, 3]), **arguments)
        session.run(tf.compat.v1.global_variables_initializer())
        return checkpoints.fetch(session, net.all_params)


def write_generator(path, arrays=None, network="SRGAN_g", **arguments):
    meta = {"network": network, "recipe": "tiny", "step": 0, "arguments": arguments or GENERATOR}
    checkpoints.write_npz(path, arrays or generator_arrays(**GENERATOR), meta)
    return path


# --- Settings -------------------------------------------------------------------------------------


def test_unknown_setting_suggests_the_nearest(refusal):
    message = refusal("--set", "TRAIN.bach_size=4")
    assert message == "unknown setting TRAIN.bach_size: did you mean TRAIN.batch_size?"


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("TRAIN.batch_size=four", "a whole number"),
        ("TRAIN.batch_size=4.5", "a whole number"),
        ("TRAIN.lr_init=fast", "a number"),
        ("TRAIN.augment=1", "True or False"),
        ("MODEL.discriminator.dense=1024", "tuple"),
    ],
)
def test_value_of_the_wrong_type_is_refused(refusal, setting, kind):
    key, value = setting.split("=")
    message = refusal("--set", setting)
    assert message.startswith(f"{key} must be ")
    assert kind in message
    assert value in message


@pytest.mark.parametrize(
    "setting",
    ["TRAIN.batch_size=0", "TRAIN.lr_init=-1", "TRAIN.lr_init=nan", "TRAIN.hr_patch_size=50"],
)
def test_value_out_of_range_is_refused(refusal, setting):
    assert setting.split("=")[0] in refusal("--set", setting)


def test_setting_without_a_value_is_refused(refusal):
    assert "KEY=VALUE" in refusal("--set", "TRAIN.batch_size")


def test_bad_choice_names_the_good_ones(refusal):
    message = refusal("--set", "RUNTIME.precision=half")
    assert message == "RUNTIME.precision must be one of auto, float32, bfloat16, not 'half'"


def test_unknown_vgg_layer_names_the_known_ones(training_refusal):
    message = training_refusal("VGG.layer=conv9_9")
    assert "VGG.layer" in message
    assert "conv5_4" in message


def test_unknown_recipe_names_the_known_ones(refusal):
    message = refusal("--recipe", "papper")
    assert "'papper'" in message
    assert "tensorlayer, paper, cpu, photo, demo" in message


@pytest.mark.parametrize("text", ["", "TRAIN: 1", "[1, 2]", '{"TRAIN": {"batch_size"'])
def test_config_file_that_is_not_json_settings_is_refused(refusal, tmp_path, text):
    (tmp_path / "my.json").write_text(text)
    assert "--config my.json" in refusal("--config", "my.json")


def test_config_file_that_is_missing_or_binary_is_refused(refusal, tmp_path):
    assert "--config my.json" in refusal("--config", "my.json")
    (tmp_path / "my.json").write_bytes(b"\xff\xfe\x00")
    assert "--config my.json" in refusal("--config", "my.json")


def test_config_file_is_checked_like_the_command_line(refusal, tmp_path):
    (tmp_path / "my.json").write_text(json.dumps({"TRAIN": {"batch_size": "4"}}))
    assert "TRAIN.batch_size must be a whole number" in refusal("--config", "my.json")
    (tmp_path / "my.json").write_text(json.dumps({"TRAIN": {"bach_size": 4}}))
    assert "did you mean TRAIN.batch_size?" in refusal("--config", "my.json")


# --- Training pictures ----------------------------------------------------------------------------


def test_missing_folder_of_training_pictures(training_refusal):
    message = training_refusal("TRAIN.hr_img_path=nowhere")
    assert "TRAIN.hr_img_path" in message and "'nowhere'" in message


def test_empty_folder_of_training_pictures(training_refusal, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    message = training_refusal("TRAIN.hr_img_path=empty")
    assert "TRAIN.hr_img_path" in message and "'empty'" in message


def test_training_picture_that_is_no_picture(training_refusal, tmp_path):
    write_picture(tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    assert "photos/bad.jpg" in training_refusal("TRAIN.hr_img_path=photos")


def test_training_picture_that_is_cut_off(training_refusal, tmp_path):
    path = write_picture(tmp_path / "photos" / "bad.jpg", 200, 200)
    path.write_bytes(path.read_bytes()[:5000])  # its header is whole: found out when it is its turn
    assert "photos/bad.jpg" in training_refusal("TRAIN.hr_img_path=photos")


def test_all_training_pictures_smaller_than_the_patch(training_refusal, tmp_path):
    write_picture(tmp_path / "photos" / "a.png", 15, 30)
    write_picture(tmp_path / "photos" / "b.png", 30, 15)
    message = training_refusal("TRAIN.hr_img_path=photos")
    assert "TRAIN.hr_img_path" in message and "16" in message


def test_missing_validation_picture(training_refusal):
    message = training_refusal("VALID.hr_img_path=nowhere")
    assert "VALID.hr_img_path" in message and "'nowhere'" in message


# --- VGG19 weights --------------------------------------------------------------------------------


def test_vgg_file_with_missing_layers(training_refusal, tmp_path):
    arrays = {"block1_conv1/kernel": np.zeros([3, 3, 3, 64]), "block1_conv1/bias": np.zeros(64)}
    np.savez(tmp_path / "vgg19.npz", **arrays)
    message = training_refusal("VGG.weights=vgg19.npz", "VGG.layer=conv2_1")
    assert "vgg19.npz lacks conv1_2, conv2_1" in message
    assert "VGG.layer" in message


def test_vgg_file_that_is_an_lfs_pointer(training_refusal, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 80134624\n"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vgg19.npz").write_text(pointer)
    message = training_refusal("VGG.weights=auto")
    assert "data/vgg19.npz is a Git LFS pointer" in message


@pytest.mark.parametrize("setting", ["auto", "absent.npz"])
def test_no_vgg_weights_at_all_stops_before_training(training_refusal, tmp_path, monkeypatch, setting):
    def get_file(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(tf.keras.utils, "get_file", get_file)
    message = training_refusal(f"VGG.weights={setting}", "VGG.on_missing=stop")
    if setting == "auto":
        assert "no route to host" in message
        assert "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5" in message
        assert "data/" in message
        assert "VGG.on_missing=random" in message
    else:
        assert "absent.npz" in message
    assert "VGG.weights" in message
    assert not (tmp_path / "checkpoint").exists()


# --- Generator weights ----------------------------------------------------------------------------


def test_evaluation_without_any_weights(refusal):
    message = refusal("--mode=evaluate", "--checkpoint-dir", "runs/one")
    assert "runs/one" in message
    assert "--mode=srgan" in message and "--weights" in message


def test_named_weights_that_are_missing(evaluation_refusal):
    assert "mine.npz" in evaluation_refusal("mine.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"num_filters": 8},
        {"num_blocks": 2},
        {"first_kernel": 9},
        {"activation": "prelu"},
        {"num_filters": "four"},
        {"scale": 8},
    ],
)
def test_weights_of_another_network_than_they_say(evaluation_refusal, tmp_path, change):
    path = write_generator(tmp_path / "mine.npz", **{**GENERATOR, **change})
    assert "mine.npz" in evaluation_refusal(path)


def test_weights_with_arrays_too_many_or_too_few(evaluation_refusal, tmp_path):
    arrays = generator_arrays(**{**GENERATOR, "num_blocks": 2})
    message = evaluation_refusal(write_generator(tmp_path / "many.npz", arrays))
    assert "many.npz does not fit this network" in message
    for name in generator_arrays(**GENERATOR):
        if name.endswith(("b1/0/gamma", "b1/0/moving_var", "c1/0/filters", "out/biases")):
            arrays = generator_arrays(**GENERATOR)
            del arrays[name]
            message = evaluation_refusal(write_generator(tmp_path / "few.npz", arrays))
            assert "few.npz does not fit this network" in message


def test_weights_that_do_not_say_their_whole_network(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "mine.npz", num_filters=4)
    assert "mine.npz" in evaluation_refusal(path)


def test_discriminator_and_training_state_are_no_generator(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "d_srgan.npz", network="SRGAN_d")
    assert "d_srgan.npz holds SRGAN_d, not the network SRGAN_g" in evaluation_refusal(path)
    checkpoints.write_npz(tmp_path / "srgan_state.npz", {}, {"step": 3})
    message = evaluation_refusal(tmp_path / "srgan_state.npz")
    assert "srgan_state.npz holds a training state, not the network SRGAN_g" in message


def test_npz_of_another_program(evaluation_refusal, tmp_path):
    np.savez(tmp_path / "theirs.npz", weights=np.zeros([3, 3, 3, 64]))
    assert "theirs.npz is not a checkpoint of this program" in evaluation_refusal("theirs.npz")
    np.savez(tmp_path / "list.npz", params=np.zeros([3, 3, 3, 64]))  # as TensorLayer names it
    assert "list.npz is damaged or not a checkpoint" in evaluation_refusal("list.npz")


def test_npz_of_another_format_version(evaluation_refusal, tmp_path):
    meta = json.dumps({"format_version": 99})
    np.savez(tmp_path / "newer.npz", __meta__=np.array(meta))
    assert "newer.npz has format version 99" in evaluation_refusal("newer.npz")


@pytest.mark.parametrize("meta", ['{"format_version": 1, "network": "SRGAN_g"}', "[]", "not JSON"])
def test_npz_with_a_meta_that_is_not_ours(evaluation_refusal, tmp_path, meta):
    np.savez(tmp_path / "theirs.npz", __meta__=np.array(meta))
    assert "theirs.npz" in evaluation_refusal("theirs.npz")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_npz(evaluation_refusal, tmp_path, share):
    path = write_generator(tmp_path / "mine.npz")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "mine.npz is damaged or not a checkpoint" in evaluation_refusal(path)
    gc.collect()  # a file left open is a warning, and warnings are errors


def test_npz_with_a_flipped_bit(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "mine.npz")
    data = bytearray(path.read_bytes())
    where = data.index(np.load(path)["SRGAN_g/out/filters"].tobytes())
    data[where] ^= 1
    path.write_bytes(data)
    assert "mine.npz is damaged" in evaluation_refusal(path)


def test_weights_that_are_a_folder_a_picture_or_an_npy(evaluation_refusal, tmp_path):
    write_picture(tmp_path / "picture.png")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in (".", "picture.png", "array.npy"):
        assert name in evaluation_refusal(name)


def test_missing_weights_to_start_training_from(training_refusal):
    assert "absent_g.npz" in training_refusal("TRAIN.init_weights=absent_g.npz")


@pytest.mark.parametrize(
    "blend", ["b.npz", "b.npz=", "b.npz=much", "b.npz=1.5", "b.npz=-1", "b.npz=nan", "=0.5"]
)
def test_blend_that_makes_no_sense(refusal, blend):
    message = refusal("--mode=evaluate", f"--blend={blend}")
    assert message.startswith("argument --blend: ") and message.endswith(f", not {blend}")
    assert "NPZ=SHARE" in message


def test_blend_of_more_than_the_whole(refusal):
    assert "--blend" in refusal("--mode=evaluate", "--blend=a.npz=0.7", "--blend=b.npz=0.7")


def test_blend_with_weights_that_are_missing_or_differ(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "a.npz")
    assert "b.npz" in evaluation_refusal(path, "--blend=b.npz=0.5")
    wide = {**GENERATOR, "num_filters": 8}
    write_generator(tmp_path / "b.npz", generator_arrays(**wide), **wide)
    message = evaluation_refusal(path, "--blend=b.npz=0.5")
    assert "b.npz cannot be blended with" in message and "a.npz" in message


# --- Files in and out -----------------------------------------------------------------------------


@pytest.mark.parametrize("option", [("--input", "a.png"), ("--output", "results")])
def test_input_and_output_go_together(refusal, option):
    message = refusal("--mode=evaluate", *option)
    assert "--input" in message and "--output" in message


def test_missing_input_picture(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "mine.npz")
    message = evaluation_refusal(path, "--input", "nowhere.png", "--output", "results")
    assert "--input" in message and "'nowhere.png'" in message
    assert not (tmp_path / "results").exists()


def test_output_that_cannot_be_written(evaluation_refusal, tmp_path):
    path = write_generator(tmp_path / "mine.npz")
    picture = write_picture(tmp_path / "a.png")
    (tmp_path / "file").touch()
    message = evaluation_refusal(path, "--input", picture, "--output", "file/results")
    assert "--output" in message and "file/results" in message


def test_samples_folder_that_cannot_be_written(refusal, tmp_path):
    path = write_generator(tmp_path / "mine.npz")
    write_picture(tmp_path / "a.png")
    (tmp_path / "file").touch()
    message = refusal(
        *("--mode=evaluate", "--weights", path, "--samples-dir", "file/samples"),
        *("--set", "VALID.hr_img_path=a.png"),
    )
    assert "file/samples" in message


def test_checkpoint_folder_that_cannot_be_written(training_refusal, tmp_path):
    (tmp_path / "file").touch()
    message = training_refusal(options=["--checkpoint-dir", "file/checkpoint"])
    assert "--checkpoint-dir" in message and "file/checkpoint" in message


def test_checkpoint_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(checkpoints.UserError, match=r"cannot write .*file/a\.npz"):
        checkpoints.write_npz(tmp_path / "file" / "a.npz", {}, {})


def test_unreadable_input_among_good_ones_fails_alone(tmp_path, capsys):
    """The exception to exit code 2: the other pictures are done, then it ends with 1."""
    path = write_generator(tmp_path / "mine.npz")
    write_picture(tmp_path / "photos" / "good.png", 5, 6)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    arguments = ["--mode=evaluate", "--weights", path, "--input", "photos", "--output", "results"]
    assert main.main([str(argument) for argument in arguments]) == 1
    stderr = capsys.readouterr().err
    assert "bad.jpg" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert read_rgb(tmp_path / "results" / "good_x4.png").shape == (20, 24, 3)


def test_training_options_and_evaluation_options_do_not_mix(refusal):
    assert "--restart" in refusal("--mode=evaluate", "--restart")
    assert "--input" in refusal("--mode=srgan", "--input", "a.png")
    assert "--input" in refusal("--mode=benchmark")


# --- Runs -----------------------------------------------------------------------------------------


def test_run_is_not_continued_with_other_settings(training_refusal, tmp_path):
    config = make_config(settings=TINY)
    state = tmp_path / "checkpoint" / "srgan_state.npz"
    meta = {"step": 3, "sums": {}, "facts": {}, "config": config}
    checkpoints.write_npz(state, {}, meta)
    before = state.read_bytes()
    message = training_refusal("TRAIN.beta1=0.5", "VALID.hr_img_path=sample")
    assert "TRAIN.beta1 was 0.9, is 0.5" in message
    assert "--restart" in message and "--checkpoint-dir" in message
    assert not any(key in message for key, _ in flatten(config) if key != "TRAIN.beta1")
    assert state.read_bytes() == before
    assert sorted(path.name for path in state.parent.iterdir()) == [".lock", "srgan_state.npz"]


def test_losses_that_explode_stop_the_run(training_refusal, tmp_path):
    message = training_refusal(
        "TRAIN.lr_init=1e30",  # the first step moves the weights out of sight, the others none
        "MODEL.generator.output_activation=linear",
    )
    assert "the last 10 steps were not finite" in message
    assert "--restart --set TRAIN.lr_init=1e+29" in message


@pytest.mark.parametrize("factor", ["0", "-1", "16.1", "nan", "inf"])
def test_final_factors_out_of_range(refusal, factor):
    message = refusal("--mode=evaluate", "--input", "a.png", "--output", "out", "--outscale", factor)
    assert message == f"argument --outscale: it must be above 0 and at most 16, not {factor}"


# --- The process


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mode=srgan", "--outscale", "2"], "unrecognized arguments: --outscale 2; see --help"),
        (["--mode=benchmark", "--input", "x", "--overwrite"], "unrecognized arguments: --overwrite"),
        (["--mode=benchmark"], "the following arguments are required: --input"),
        (
            ["--mode=export", "--format", "onnx", "--output", "x", "--samples-dir", "y"],
            "unrecognized arguments",
        ),
        (["--mode=page", "--port", "65536"], "argument --port: it must be 0 to 65535, not 65536"),
        (
            ["--mode=evaluate", "--set", "TRAIN.seed=1"],
            "--set TRAIN.seed=1: --mode=evaluate uses VALID and RUNTIME",
        ),
        (
            ["--mode=evaluate", "--blend", "a.npz=2"],
            "argument --blend: write NPZ=SHARE with a share from 0 to 1",
        ),
        (["--mode=evaluate", "--format", "png"], "--format needs --input and --output"),
        (["--mode=evaluate", "--shard", "1/2"], "--shard needs --input and --output"),
        (["--mode=evaluate", "--restart"], "unrecognized arguments: --restart"),
        (["--mode=export", "--format", "onnx"], "the following arguments are required: --output"),
        (["--mode=export", "--format", "png", "--output", "x"], "argument --format: invalid choice: 'png'"),
    ],
)
def test_options_of_another_mode_are_not_ignored(refusal, options, sentence):
    assert refusal(*options).startswith(sentence)


def test_a_whole_export_command_is_taken():
    main.parse_arguments(["--mode=export", "--format", "onnx", "--output", "x"])


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


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-"])
def test_closed_streams_do_not_end_the_program_or_spoil_its_files(tmp_path, closed):
    path = write_generator(tmp_path / "g.npz")
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    arguments = ["--mode=evaluate", "--weights", str(path), "--input", "a.png", "--output", "out"]
    with start_main(*arguments, prefix=f"exec {closed};", cwd=tmp_path) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert read_rgb(tmp_path / "out/a_x4.png").shape == (16, 20, 3)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1.5/2"])
def test_shards_that_make_no_sense(refusal, text):
    message = refusal("--mode=evaluate", "--input", "a", "--output", "b", f"--shard={text}")
    assert message == f"argument --shard: write I/N with I from 1 to N, as in 3/8, not {text}"
