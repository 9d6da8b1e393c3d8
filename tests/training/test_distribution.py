"""Several devices and hosts compute what one does; only the chief writes files."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from test_dataset import epoch_of
from test_run import SHORT, batch, fed, log_lines, no_plots, run_training, tiny  # noqa: F401

from common.errors import UserError
from images import bicubic
from tf1 import checkpoints, distribution
from training.dataset import Dataset
from training.graph import build
from training.schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN

ROOT = Path(__file__).parents[2]
EVERYTHING = (
    *("TRAIN.batch_size=4", "TRAIN.ema_decay=0.9", "TRAIN.n_epoch_d=1"),
    *("VGG.every=2", "LOSS.means=10", "LOSS.excess=0.1"),
)
FIRST_STEPS = [(PRETRAIN,), (DISCRIMINATOR,), (ADVERSARIAL,)]
ALL_PHASES = (PRETRAIN, PRETRAIN, DISCRIMINATOR, ADVERSARIAL, ADVERSARIAL)


def states(devices):
    """{phases: losses of the last step and all variables after a step of each of these phases}."""
    cfg = tiny(*EVERYTHING, f"RUNTIME.devices={devices}")
    cluster = distribution.connect(cfg.RUNTIME)
    with tf.Graph().as_default(), cluster.strategy.scope():
        tf.compat.v1.set_random_seed(0)
        graph = cluster.build(lambda: build(cfg, tf.float32))
        fetches = {
            PRETRAIN: [graph.g_optim_init, graph.g_init_losses],
            DISCRIMINATOR: [graph.d_optim, graph.d_losses],
            ADVERSARIAL: [graph.g_optim, graph.g_losses],
        }
        variables = tf.compat.v1.global_variables()
        with tf.compat.v1.Session(config=cluster.session_config) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            session.run(graph.reset_average)
            start = dict(zip(variables, checkpoints.fetch(session, variables).values()))

            def after(phases):
                checkpoints.set_variables(session, start)
                for number, phase in enumerate(phases):
                    hr = np.concatenate([batch(2 * number), batch(2 * number + 1)])
                    lr = fed(graph, hr)[graph.t_image]
                    _, losses = session.run(fetches[phase], cluster.feed(graph, lr, hr))
                return losses, checkpoints.fetch(session, variables)

            return {phases: after(phases) for phases in (*FIRST_STEPS, ALL_PHASES)}


@pytest.fixture(scope="module")
def one_and_two():
    return states(1), states(2)


@pytest.mark.parametrize("phases", FIRST_STEPS)
def test_two_devices_compute_what_one_does(one_and_two, phases):
    """Losses, gradients (Adam's first moments), batch-norm averages, all of the first step."""
    (losses, one), (losses_of_two, two) = (each[phases] for each in one_and_two)
    assert losses_of_two == pytest.approx(losses, rel=1e-5)
    assert one.keys() == two.keys()
    moments = [name for name in one if re.search(r"_optim(_init)?$", name)]
    averages = [name for name in one if name.endswith(("moving_mean", "moving_var"))]
    assert averages and any(np.abs(one[name]).max() > 0 for name in moments)
    for name in moments + averages:
        scale = max(np.abs(one[name]).max(), 1e-6)
        np.testing.assert_allclose(two[name], one[name], atol=1e-4 * scale, err_msg=name)


def assert_nearly_the_same_weights(one, two):
    """The generator's averages: a fifth of what a step of Adam at the rate 1e-3 moves them.

    Where a gradient is 0 but for rounding, Adam makes steps of that too, in either direction.
    """
    names = [name for name in one if re.fullmatch("SRGAN_g/.*/ExponentialMovingAverage", name)]
    assert len(names) > 10
    for name in names:
        np.testing.assert_allclose(two[name], one[name], atol=2e-4, err_msg=name)


def test_two_devices_go_on_as_one_does(one_and_two):
    (losses, one), (losses_of_two, two) = (each[ALL_PHASES] for each in one_and_two)
    assert losses_of_two == pytest.approx(losses, rel=2e-3)
    assert_nearly_the_same_weights(one, two)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"TRAIN.batch_size=3 cannot be divided among 2 devices"):
        run_training(tmp_path, "TRAIN.batch_size=3", "RUNTIME.devices=2")


def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    for epochs, devices in ((1, 1), (2, 2), (3, 1)):
        run_training(tmp_path, *SHORT, f"TRAIN.n_epoch_init={epochs}", f"RUNTIME.devices={devices}")
        assert checkpoints.read_meta(tmp_path / "checkpoint/g_srgan_init.npz")["step"] == 3 * epochs


def test_parts_of_a_batch_are_the_batch_and_no_more_is_cut(monkeypatch):
    data = Dataset("sample", scale=4, patch_size=16, batch_size=4, seed=0, crops_per_image=2)
    whole, first, second = ([hr for _, hr in epoch_of(data, 0, 1, part)] for part in ((0, 1), (0, 2), (1, 2)))
    np.testing.assert_array_equal(whole, np.concatenate([first, second], axis=1))
    downsample = Mock(wraps=bicubic.downsample)
    monkeypatch.setattr(bicubic, "downsample", downsample)
    list(epoch_of(data, 0, 0, (1, 2)))
    assert downsample.call_count == 2 * data.steps_per_epoch


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "TF_CONFIG cannot be understood"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "ps", "index": 0}}',
            "neither a chief nor a worker",
        ),
    ],
)
def test_a_wrong_tf_config_is_refused(monkeypatch, text, sentence):
    monkeypatch.setenv("TF_CONFIG", text)
    settings = tiny().RUNTIME
    with pytest.raises(UserError, match=sentence):
        distribution.connect(settings)


def test_a_host_with_other_settings_or_images_is_named(session):
    """Each host writes a row of a table, which is summed; all read the same sum."""

    def agree(*facts):
        tables = []

        def write(table):
            tables.append(session.run(table))
            return np.zeros_like(tables[-1])  # in which no host differs

        for run in (write, lambda _: sum(tables)):
            for host, facts_of_host in enumerate(facts):
                cluster = SimpleNamespace(hosts=3, host=host, replicas=3, run=lambda function: [function()])
                distribution.Cluster.require_agreement(cluster, SimpleNamespace(run=run), facts_of_host)

    facts = {"settings": {"TRAIN.seed": 0}, "images": "abc", "device": "CPU"}
    agree(facts, facts, {**facts, "device": "GPU"})
    with pytest.raises(UserError, match=r"host 2 differs from host 0 in images:"):
        agree(facts, facts, {**facts, "images": "abd"})
    with pytest.raises(UserError, match=r"host 1 differs from host 0 in images, settings:"):
        agree(facts, {"settings": {"TRAIN.seed": 1}, "images": "x"}, facts)


# --- Two processes


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class Hosts:
    """Two processes of one training over the loopback; each has its own folder, `0` and `1`."""

    def __init__(self, folder, settings=(), others=()):
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        self.processes, self.outputs = [], [folder / f"{index}/output.txt" for index in range(2)]
        for index, path in enumerate(self.outputs):
            config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            command = [sys.executable, "main.py", "--checkpoint-dir", path.parent / "checkpoint"]
            command += ["--samples-dir", path.parent / "samples"]
            for setting in (*TINY, *settings, *(others if index else ())):
                command += ["--set", setting]
            path.parent.mkdir(exist_ok=True)
            options = {"env": {**os.environ, "TF_CONFIG": json.dumps(config)}, "cwd": ROOT}
            with open(path, "w") as output:
                self.processes.append(subprocess.Popen(command, stdout=output, stderr=output, **options))

    def wait(self, seconds=120):
        """Exit codes and output."""
        try:
            codes = [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return codes, [output.read_text() for output in self.outputs]

    def wait_for(self, words, seconds=90):
        """Until the chief has said the words."""
        end = time.monotonic() + seconds
        while words not in self.outputs[0].read_text():
            assert time.monotonic() < end, [output.read_text() for output in self.outputs]
            time.sleep(0.1)


def test_two_hosts_train_one_model_and_only_the_chief_writes(tmp_path):
    codes, outputs = Hosts(tmp_path, EVERYTHING).wait()
    assert codes == [0, 0], outputs
    assert {path.name for path in (tmp_path / "1").rglob("*") if path.is_file()} == {"output.txt"}
    run_training(tmp_path, *EVERYTHING)
    one, _ = checkpoints.read_npz(tmp_path / "checkpoint/srgan_state.npz")
    two, meta = checkpoints.read_npz(tmp_path / "0/checkpoint/srgan_state.npz")
    assert one.keys() == two.keys() and meta["step"] == 15
    assert_nearly_the_same_weights(one, two)
    for line, line_of_two in zip(log_lines(tmp_path), log_lines(tmp_path / "0")):
        losses = {name: value for name, value in line.items() if "loss" in name}
        assert {name: line_of_two[name] for name in losses} == pytest.approx(losses, rel=1e-2)


@pytest.mark.long
def test_a_host_that_differs_is_refused_by_name(tmp_path):
    codes, outputs = Hosts(tmp_path, others=["TRAIN.seed=7"]).wait()
    assert codes == [2, 2]
    for text in outputs:
        assert "host 1 differs from host 0 in settings:" in text and "Traceback" not in text


@pytest.mark.long
def test_hosts_stop_when_one_dies_and_go_on_from_the_last_save(tmp_path):
    settings = (*SHORT, "TRAIN.n_epoch_init=100000")
    hosts = Hosts(tmp_path, settings)
    hosts.wait_for("pretrain epoch 2,")
    hosts.processes[1].kill()
    codes, outputs = hosts.wait(60)
    assert codes == [2, -signal.SIGKILL] and "another host has stopped" in outputs[0]

    hosts = Hosts(tmp_path, settings)
    hosts.wait_for("steps/s")  # of an epoch
    hosts.processes[1].send_signal(signal.SIGTERM)  # one is asked, and the others cannot go on
    codes, outputs = hosts.wait(60)
    assert codes == [2, 143], outputs
    assert "Continuing" in outputs[0] and "another host has stopped" in outputs[0]

    hosts = Hosts(tmp_path, settings)
    hosts.wait_for("steps/s")
    for process in hosts.processes:
        process.send_signal(signal.SIGTERM)
    codes, outputs = hosts.wait(60)
    assert codes[0] == 143 and codes[1] in (2, 143) and "Stopped and saved" in outputs[0], outputs
