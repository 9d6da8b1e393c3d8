"""The training graph, the schedule, and runs in a temporary folder."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from matplotlib.figure import Figure

from common.errors import UserError
from common.settings import make_config
from images import bicubic
from images.files import read_rgb
from model import SRGAN_d, SRGAN_g
from tf1 import checkpoints
from training import losses
from training.graph import build, to_range
from training.run import Run
from training.schedule import Schedule
from training.train import train
from vgg19 import Vgg19_simple_api


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Plots take a third of a tiny run; the run that several tests share has them."""
    monkeypatch.setattr(Figure, "savefig", lambda self, part, **_: Path(part).touch())


def tiny(*settings):
    return make_config("tensorlayer", None, [*TINY, *settings])


SHORT = ("TRAIN.n_epoch=0",)  # six steps of pretraining in two epochs


def batch(seed=0, patch=16):
    return np.random.default_rng(seed).integers(0, 256, (2, patch, patch, 3), dtype=np.uint8)


def fed(graph, hr):
    """HR and its LR by bicubic."""
    return {graph.t_target_image: hr, graph.t_image: np.stack([bicubic.downsample(image, 4) for image in hr])}


def params_of(graph):
    return graph.net_g.all_params + graph.net_d.all_params


def run_training(folder, *settings, restart=False):
    train(tiny(*settings), folder / "checkpoint", folder / "samples", recipe="tensorlayer", restart=restart)


def arrays_of(folder):
    """{"FILE:VARIABLE": array} of all files but the previous state."""
    files = [path for path in (folder / "checkpoint").glob("*.npz") if not path.stem.endswith("previous")]
    arrays = {file.name: checkpoints.read_npz(file)[0] for file in sorted(files)}
    return {f"{file}:{name}": array for file in arrays for name, array in arrays[file].items()}


def log_lines(folder):
    text = (folder / "checkpoint/train_log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def run_until(folder, stop_after, *settings):
    """Runs in `folder`; Ctrl-C or SIGTERM comes at the end of the step `stop_after`."""
    number = signal.SIGINT if stop_after % 2 else signal.SIGTERM

    def step_with_stop(run, *results, step=Run.end_step):
        if run.step_number + 1 == stop_after:
            signal.raise_signal(number)
        step(run, *results)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "end_step", step_with_stop)
        with pytest.raises(SystemExit) as stopped:
            run_training(folder, *settings)
    assert stopped.value.code == 128 + number


# --- One step


@pytest.fixture(scope="module")
def built():
    with tf.Graph().as_default() as tf_graph:
        tf.compat.v1.set_random_seed(0)
        graph = build(tiny("TRAIN.ema_decay=0.5"), tf.float32)
        initializer = tf.compat.v1.global_variables_initializer()
    session = tf.compat.v1.Session(graph=tf_graph)
    yield graph, session, initializer
    session.close()


@pytest.fixture
def started(built):
    """(graph, session) with all variables as at the start."""
    graph, session, initializer = built
    session.run(initializer)
    session.run(graph.average.reset)
    return graph, session


@pytest.mark.parametrize(
    ("optimiser", "networks"),
    [("g_optim_init", {"SRGAN_g"}), ("d_optim", {"SRGAN_d"}), ("g_optim", {"SRGAN_g", "SRGAN_d"})],
)
def test_a_step_moves_its_networks_alone_and_nothing_if_it_is_not_finite(started, optimiser, networks):
    """Not by Adam's momentum either, nor batch norm's and the weights' averages, nor the count of steps."""
    graph, session = started
    variables = session.graph.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES)

    def moved_by_a_step(before):
        session.run(getattr(graph, optimiser), fed(graph, batch(9)))
        after = checkpoints.fetch(session, variables)
        names = {name for name in after if "_optim" not in name and "_power" not in name}  # Adam's may fade
        return {name for name in names if not np.array_equal(after[name], before[name], equal_nan=True)}

    for number in range(3):  # so that there is momentum
        session.run(graph.g_optim_init, fed(graph, batch(number)))
        session.run(graph.g_optim, fed(graph, batch(number)))
    before = checkpoints.fetch(session, variables)
    biases = next(p for p in graph.net_g.all_params if p.op.name == "SRGAN_g/out/biases")
    spoilt = np.float32([np.nan, 0, 0])
    checkpoints.set_variables(session, {biases: spoilt})  # a real NaN in each generated image
    assert moved_by_a_step({**before, biases.op.name: spoilt}) == set()
    checkpoints.set_variables(session, {biases: before[biases.op.name]})
    moved = moved_by_a_step(before)
    assert {name.partition("/")[0] for name in moved} - {"global_step"} == networks


def test_one_run_step_equals_the_two_runs_of_the_note():
    """The losses by their formulas, and all variables of both networks, in each of four steps."""
    settings = ("LOSS.mse=0.1", "LOSS.vgg=0.25", "LOSS.adversarial=0.5", "LOSS.means=3.0", "LOSS.excess=0.2")
    cfg = tiny(*settings, "VGG.every=2", "VGG.input_size=24")
    batches = [batch(seed) for seed in range(4)]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(0)
        ours = build(cfg, tf.float32)
        session.run(tf.compat.v1.global_variables_initializer())
        expected_losses = [session.run([ours.g_optim, ours.g_losses], fed(ours, hr))[1] for hr in batches]
        expected = checkpoints.fetch(session, params_of(ours))

    # The note's way: its graph, then sess.run(d_optim) and sess.run(g_optim) on the same batch
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(0)
        parts = build(cfg, tf.float32)  # for its placeholders and variables, which start as ours did
        hr = tf.cast(parts.t_target_image, tf.float32) / 127.5 - 1
        with tf.compat.v1.variable_scope("", reuse=True):
            net_g = SRGAN_g(to_range(parts.t_image), True, True, **cfg.MODEL.generator)
            net_d, logits_real = SRGAN_d(hr, reuse=True, **cfg.MODEL.discriminator)
            net_d_fake, logits_fake = SRGAN_d(net_g.outputs, reuse=True, **cfg.MODEL.discriminator)
        sr = net_g.outputs

        def features(images):
            """Of every second image, at the size and in the range of VGG19's input."""
            rgb = (tf.image.resize(images[::2], [24, 24]) + 1) / 2
            return Vgg19_simple_api(rgb, reuse=True, layer="conv1_1")[1].outputs

        d_loss1 = tf.reduce_mean(tf.nn.softplus(-logits_real))  # -log sigmoid
        d_loss2 = tf.reduce_mean(tf.nn.softplus(logits_fake))
        d_terms = {"d_loss1": d_loss1, "d_loss2": d_loss2, "d_loss": d_loss1 + d_loss2}
        g_terms = {
            "mse_loss": 0.1 * tf.reduce_mean((sr - hr) ** 2),
            "vgg_loss": 0.25 * tf.reduce_mean((features(sr) - features(hr)) ** 2),
            "g_gan_loss": 0.5 * tf.reduce_mean(tf.nn.softplus(-logits_fake)),
            "means_loss": 3.0 * losses.means_loss(sr, hr, 4),
            "excess_loss": 0.2 * losses.excess_loss(sr, hr),
        }
        g_terms["g_loss"] = tf.add_n(list(g_terms.values()))
        g_vars, d_vars = ([p for p in n.all_params if "moving" not in p.op.name] for n in (net_g, net_d))
        adam, beta1 = tf.compat.v1.train.AdamOptimizer, cfg.TRAIN.beta1
        d_optim = adam(parts.lr_v, beta1, name="note_d").minimize(d_terms["d_loss"], var_list=d_vars)
        g_optim = adam(parts.lr_v, beta1, name="note_g").minimize(g_terms["g_loss"], var_list=g_vars)
        yes = tf.constant(True)
        g_updates, real, fake = (net.moving_average_updates(yes) for net in (net_g, net_d, net_d_fake))
        session.run(tf.compat.v1.global_variables_initializer())
        start = checkpoints.fetch(session, params_of(parts))
        for images, values in zip(batches, expected_losses):
            feed = fed(parts, images)
            session.run(real, feed)
            session.run(fake, feed)
            found, _ = session.run([d_terms, d_optim], feed)
            found |= session.run([g_terms, g_optim, g_updates], feed)[0]
            assert found == pytest.approx(values, rel=1e-4)
        result = checkpoints.fetch(session, params_of(parts))
    for name, value in expected.items():
        assert not np.array_equal(value, start[name]), f"{name} never moved"
        np.testing.assert_allclose(result[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


def test_means_loss_equals_the_formula_written_out(session):
    random = np.random.default_rng(0)
    hr, errors = (scale * random.standard_normal([2, 32, 48, 3]) for scale in (0.02, 0.1))
    # image, rows and columns of: windows of 16 px, cells in them, places in those; channel
    shape = [2, 2, 4, 4, 3, 4, 4, 3]
    in_hr, in_errors = hr.reshape(shape), errors.reshape(shape)
    cell_errors = in_errors.mean((3, 6), keepdims=True)
    place_errors = (in_errors - cell_errors).mean((2, 5))
    variance = in_hr.var((3, 6)).mean((2, 4, 5))[:, :, None, :, None, None]
    places = (place_errors**2 * losses.FLAT_VARIANCE / (losses.FLAT_VARIANCE + variance)).mean()
    loss = session.run(losses.means_loss(tf.constant(hr + errors), hr, 4))
    assert loss == pytest.approx((cell_errors**2).mean() + losses.CHECKERBOARD_WEIGHT * places)


def test_excess_loss_equals_the_formula_written_out(session):
    random = np.random.default_rng(0)
    hr, sr = (scale * random.standard_normal([2, 9, 12, 3]) for scale in (0.02, 0.04))
    flat, logs = losses.FLAT_VARIANCE, []
    for row, column in np.ndindex(9, 12):
        window = np.s_[:, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        of_sr, of_hr = (image[window].var((1, 2)).mean(-1) for image in (sr, hr))
        logs.append(np.log((of_sr + flat) / (losses.FREE_VARIANCE_RATIO * of_hr + flat)))
    assert np.min(logs) < 0 < np.max(logs)
    loss = session.run(losses.excess_loss(tf.constant(sr), tf.constant(hr)))
    assert loss == pytest.approx(np.maximum(logs, 0).mean())


def test_moving_average_of_the_weights_follows_its_formula(started):
    graph, session = started
    name = "SRGAN_g/out/filters"
    weight = next(p for p in graph.net_g.all_params if p.op.name == name)
    average = start = session.run(weight)
    for step in range(3):
        session.run(graph.g_optim_init, fed(graph, batch(step)))
        decay = min(0.5, (2 + step) / (11 + step))  # ramped up by the number of updates of G, 1 to 3
        average = decay * average + (1 - decay) * session.run(weight)
    assert not np.allclose(average, start)
    np.testing.assert_allclose(session.run(graph.average.weights[name]), average, rtol=1e-5)


# --- Schedule


def schedule(**settings):
    """Of epochs of ten steps."""
    return Schedule(make_config(settings=[f"TRAIN.{k}={v}" for k, v in settings.items()]).TRAIN, 10)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        # the note's: pretraining keeps its rate, which drops to a tenth in the middle of adversarial training
        ({"n_epoch_init": 4, "n_epoch": 6}, {0: 1, 19: 1, 20: 1, 39: 1, 40: 1, 69: 1, 70: 0.1, 99: 0.1}),
        (
            {"n_epoch_init": 2, "n_epoch": 3, "decay_every": 1, "lr_decay": 0.5},
            {19: 1, 29: 1, 30: 0.5, 49: 0.25},
        ),
        ({"n_epoch_init": 10, "lr_schedule": "cosine", "warmup_steps": 4}, {0: 0.25, 50: 0.5, 99: 2.467e-4}),
        (
            {"n_epoch_init": 1, "n_epoch_d": 1, "n_epoch": 1, "warmup_steps": 4},
            {0: 0.25, 9: 1, 10: 1, 19: 1, 20: 0.25, 21: 0.5, 22: 0.75, 23: 1},  # D alone at the full rate
        ),
    ],
)
def test_learning_rates_follow_the_settings(settings, rates):
    plan = schedule(**settings)
    assert {step: plan.learning_rate(step) / 1e-4 for step in rates} == pytest.approx(rates, rel=1e-3)


def test_the_discriminator_does_not_learn_for_itself():
    assert schedule(n_epoch_init=2, n_epoch_d=3, n_epoch=0).total_steps == 20


# --- Runs


WHOLE = ("TRAIN.ema_decay=0.9", "TRAIN.n_epoch_d=1", "TRAIN.warmup_steps=4", "LOSS.mse=0.1")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Folder of an uninterrupted run: steps 1-6 pretrain, in 7-9 D learns alone, 10-15 are adversarial."""
    folder = tmp_path_factory.mktemp("whole")
    run_training(folder, *WHOLE)
    return folder


def test_run_writes_averaged_weights_samples_log_and_settings(whole_run):
    checkpoint = whole_run / "checkpoint"
    lines = log_lines(whole_run)
    names = [f"{line['phase']} {line['epoch']}" for line in lines]
    assert names == ["pretrain 1", "pretrain 2", "discriminator 1", "adversarial 1", "adversarial 2"]
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15]
    cfg = tiny(*WHOLE)
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.75e-3, 1e-3, 1e-3, 0.75e-3, 1e-4])
    alone = lines.pop(2)
    assert alone["d_loss"] > 0 and not {"mse_loss", "psnr_db"} & alone.keys()
    assert all(line["mse_loss"] > 0 and line["psnr_db"] > 0 for line in lines)
    for name, phase in (("g_srgan_init", "pretrain"), ("g_srgan", "adversarial")):
        arrays, meta = checkpoints.read_npz(checkpoint / f"{name}.npz")
        assert all(key.startswith("SRGAN_g/") for key in arrays)
        assert (meta["network"], meta["recipe"]) == ("SRGAN_g", "tensorlayer")
        assert (meta["phase"], meta["epoch"]) == (phase, 2)
        assert re.fullmatch("conv1_1 [0-9a-f]{12}", meta["facts"]["vgg_features"])
        assert meta["arguments"] == cfg.MODEL.generator
    state, _ = checkpoints.read_npz(checkpoint / "srgan_state.npz")
    assert not any(name.startswith("VGG19/") for name in state)
    for name, array in arrays.items():  # of g_srgan.npz
        np.testing.assert_array_equal(array, state[f"{name}/ExponentialMovingAverage"], err_msg=name)
    assert not np.array_equal(arrays["SRGAN_g/out/filters"], state["SRGAN_g/out/filters"])
    assert make_config(file=str(checkpoint / "config.json")) == cfg
    assert read_rgb(whole_run / "samples/learning_curve.png").std() > 1


def test_tensorboard_has_the_numbers_of_the_log_and_the_samples(whole_run):
    (path,) = (whole_run / "checkpoint/tensorboard").iterdir()
    events = tf.compat.v1.train.summary_iterator(str(path))
    values = [(event.step, value) for event in events for value in event.summary.value]
    points = {(step, v.tag): v.simple_value for step, v in values if v.HasField("simple_value")}
    expected = {
        (line["step"], f"{line['phase']}/{name}"): value
        for line in log_lines(whole_run)
        for name, value in line.items()
        if isinstance(value, float)
    }
    assert points == pytest.approx(expected, rel=1e-6)
    images = {value.tag for _, value in values if value.HasField("image")}
    assert images == {"pretrain/samples", "adversarial/samples"}


def test_stopped_and_continued_run_ends_with_the_same_bits(whole_run, tmp_path):
    """Stops within pretraining, at the border of the phases, while D learns alone, and after that."""
    for stop_after in (2, 6, 8, 11):
        run_until(tmp_path, stop_after, *WHOLE)
        state, meta = checkpoints.read_npz(tmp_path / "checkpoint/srgan_state.npz")
        assert meta["step"] == stop_after
        assert state["global_step"] == stop_after - min(3, max(0, stop_after - 6))  # D learns alone in 7 to 9
    run_training(tmp_path, *WHOLE)

    np.testing.assert_equal(arrays_of(whole_run), arrays_of(tmp_path))
    logs = log_lines(whole_run), log_lines(tmp_path)  # their means are of all steps of an epoch
    for line in logs[0] + logs[1]:
        del line["seconds"]
    assert logs[0] == logs[1]


def test_a_stop_writes_the_weights_of_its_step_and_after_an_epoch_all_that_an_epoch_writes(tmp_path):
    settings = ("TRAIN.n_epoch_init=1", "TRAIN.n_epoch=2", "TRAIN.save_every=100", "TRAIN.keep_weights=1")
    folder = tmp_path / "checkpoint"
    generator = {2: "g_srgan_init.npz", 3: "g_srgan_init.npz", 5: "g_srgan.npz", 8: "g_srgan.npz"}
    for stop_after, file in generator.items():
        run_until(tmp_path, stop_after, *settings)
        state, _ = checkpoints.read_npz(folder / "srgan_state.npz")
        for path in (folder / file, *([folder / "d_srgan.npz"] if stop_after > 3 else [])):
            weights, meta = checkpoints.read_npz(path)
            assert meta["step"] == stop_after
            np.testing.assert_equal(weights, {name: state[name] for name in weights})
        numbered = [path.name for path in folder.glob("g_*_1.npz")]
        assert numbered == (["g_srgan_init_1.npz"] if stop_after > 2 else [])
    assert [line["step"] for line in log_lines(tmp_path)] == [3, 6]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """Folder of an uninterrupted run of SHORT."""
    folder = tmp_path_factory.mktemp("short")
    run_training(folder, *SHORT)
    return folder


def test_a_run_goes_on_with_settings_of_no_numbers_and_restarts_with_others(short_run, tmp_path, caplog):
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"absent\.npz"):  # before the run is archived
        run_training(tmp_path, *SHORT, "TRAIN.init_weights=absent.npz", restart=True)
    caplog.set_level("INFO")
    run_training(tmp_path, *SHORT, "TRAIN.save_every=3", "RUNTIME.intra_op_threads=1")
    assert "is finished" in caplog.text
    np.testing.assert_equal(arrays_of(short_run), arrays_of(tmp_path))
    assert not any("SRGAN_d" in name or "VGG19" in name for name in arrays_of(tmp_path))
    run_training(tmp_path, *SHORT, "TRAIN.seed=1", restart=True)
    key = "g_srgan_init.npz:SRGAN_g/out/filters"
    assert not np.array_equal(arrays_of(short_run)[key], arrays_of(tmp_path)[key])


def test_finished_run_may_be_made_longer(short_run, tmp_path):
    """It ends with the bits of a run that was asked for all epochs at once."""
    longer, at_once = tmp_path / "longer", tmp_path / "at once"
    shutil.copytree(short_run, longer)
    cosine = (*SHORT, "TRAIN.lr_schedule=cosine")
    run_training(tmp_path / "cosine", *cosine)
    with pytest.raises(UserError, match="made with other numbers of epochs"):  # its rate would fall slower
        run_training(tmp_path / "cosine", *cosine, "TRAIN.n_epoch_init=3")
    for folder in (longer, at_once):
        run_training(folder, *SHORT, "TRAIN.n_epoch_init=3", "TRAIN.keep_weights=3")
    np.testing.assert_equal(arrays_of(at_once), arrays_of(longer))
    names = {path.name for path in (at_once / "checkpoint").glob("g_srgan*")}
    assert names == {"g_srgan_init.npz", "g_srgan_init_3.npz"}


def test_restart_starts_the_weights_and_their_average_from_init_weights(short_run, tmp_path):
    """Three steps of D alone and three of G at rate 0 leave both."""
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    path = short_run / "checkpoint/g_srgan_init.npz"
    epochs = ("TRAIN.n_epoch_init=0", "TRAIN.n_epoch_d=1", "TRAIN.n_epoch=1")
    settings = ("TRAIN.lr_init=0.0", "TRAIN.ema_decay=0.9", f"TRAIN.init_weights={path}")
    run_training(tmp_path, *epochs, *settings, restart=True)
    files = (path, *(tmp_path / "checkpoint" / name for name in ("srgan_state.npz", "g_srgan.npz")))
    start, state, average = (checkpoints.read_npz(file)[0] for file in files)
    for name in start:
        if "moving" not in name:
            np.testing.assert_array_equal(state[name], start[name], err_msg=name)
            np.testing.assert_allclose(average[name], start[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("scale", "patch", "fitting"), [(3, 18, 19), (8, 16, 23)])
def test_another_scale_starts_from_the_trunk_and_resumes_without_the_file(
    short_run, tmp_path, caplog, scale, patch, fitting
):
    """A network of 23 arrays, two of them for each convolution before a pixel shuffle."""
    caplog.set_level("INFO")
    path = Path(shutil.copy(short_run / "checkpoint/g_srgan_init.npz", tmp_path / "start.npz"))
    start = checkpoints.read_npz(path)[0]
    settings = (
        *(f"MODEL.generator.scale={scale}", f"TRAIN.hr_patch_size={patch}", f"TRAIN.init_weights={path}"),
        *("TRAIN.n_epoch_init=1", "TRAIN.n_epoch=1", "TRAIN.degradation=photo", "TRAIN.lr_init=0.0"),
    )
    run_until(tmp_path, 2, *settings)
    path.unlink()
    run_training(tmp_path, *settings)
    assert f"which is of scale 4: {fitting} of its 23 arrays fit" in caplog.text
    arrays, meta = checkpoints.read_npz(tmp_path / "checkpoint/g_srgan.npz")
    assert meta["arguments"]["scale"] == scale
    same = [name for name in start if "moving" not in name and np.array_equal(start[name], arrays.get(name))]
    assert len(same) == fitting - sum("moving" in name for name in start)
    sheet = read_rgb(tmp_path / "samples/srgan_gan/train_1.png")
    assert sheet.shape[1] > 4 * patch and [line["step"] for line in log_lines(tmp_path)] == [3, 6]
    with pytest.raises(UserError, match=f"MODEL.generator.scale was {scale}, is 4"):
        run_training(tmp_path, "TRAIN.n_epoch_init=1", "TRAIN.n_epoch=1")
