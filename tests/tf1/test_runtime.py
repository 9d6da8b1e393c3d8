"""Where the graph runs: session options, precision, memory."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from common import machine
from common.settings import make_config
from tf1 import runtime

MB = 2**20


def settings(*changes):
    return make_config(settings=changes).RUNTIME


def test_session_options_follow_the_settings_and_the_precision():
    default = runtime.session_config(settings())
    changed = runtime.session_config(settings("RUNTIME.xla=true", "RUNTIME.intra_op_threads=3"))
    for options, threads, xla, dtype, rewrites in (
        (default, 0, tf.compat.v1.OptimizerOptions.DEFAULT, tf.float32, 0),
        (changed, 3, tf.compat.v1.OptimizerOptions.ON_1, tf.bfloat16, 1),  # 1: on
    ):
        assert options.gpu_options.allow_growth and options.allow_soft_placement
        assert options.intra_op_parallelism_threads == threads
        assert options.graph_options.optimizer_options.global_jit_level == xla
        runtime.allow_reduced_precision(options, dtype)
        assert options.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 == rewrites


@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx2"}, False), ({"avx512_bf16"}, True), ({"avx2", "amx_bf16"}, True)]
)
def test_precision_follows_the_cpu(monkeypatch, flags, expected):
    monkeypatch.setattr(runtime, "cpu_flags", lambda: flags)
    assert runtime.has_bfloat16() == expected
    assert runtime.compute_dtype("auto") == (tf.bfloat16 if expected else tf.float32)
    assert runtime.compute_dtype("float32") == tf.float32
    assert runtime.compute_dtype("bfloat16") == tf.bfloat16


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_precision_follows_the_gpu_where_there_is_one(monkeypatch, capability, expected):
    gpu = SimpleNamespace(name="/physical_device:GPU:0")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    details = {"compute_capability": capability, "device_name": "Some GPU"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    assert runtime.has_bfloat16() == expected
    assert runtime.describe_device() == "GPU (Some GPU)"


def test_memory_for_upscaling_is_bounded(monkeypatch):
    monkeypatch.setattr(machine, "memory_limit", lambda: 2**40)
    assert machine.memory_budget(0) == machine.memory_budget(0, 200 * MB) == 1280 * MB
    assert machine.memory_budget(0, 300 * MB) == 980 * MB  # a large result is part of it
    assert machine.memory_budget(0, 1152 * MB) == 256 * MB
    monkeypatch.setattr(machine, "memory_limit", lambda: 400 * MB)
    assert machine.memory_budget(0) == 100 * MB
    assert machine.memory_budget(300) == machine.memory_budget(300, 2000 * MB) == 300 * MB


def test_unknown_memory_is_taken_for_4_gb(monkeypatch):
    monkeypatch.delattr(machine.os, "sysconf")  # as on Windows
    assert machine.memory_limit() == 4 * 1024**3


def test_the_memory_limit_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(machine, "CGROUP_OF_PROCESS", tmp_path / "cgroup")
    whole = machine.memory_limit()
    assert whole > 100 * MB
    for group, file, limit, expected in (
        ("mine", "pods/mine/memory.max", "max", whole),
        ("mine", "pods/memory.max", 70 * MB, 70 * MB),  # of a group above
        ("mine", "memory/pods/mine/memory.limit_in_bytes", 60 * MB, 60 * MB),  # version 1
        ("a:b", "pods/a:b/memory.max", 50 * MB, 50 * MB),
    ):
        (tmp_path / "cgroup").write_text(f"0::/pods/{group}\n")
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"{limit}\n")
        assert machine.memory_limit() == expected


def test_the_cpu_quota_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
    for text, cores in (("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(f"{text}\n")
        assert machine.usable_cores() == cores


def test_a_gpu_that_tensorflow_cannot_use_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(runtime, "GPU_DRIVER", tmp_path / "version")
    for exists, hidden, is_logged in ((False, "0", False), (True, "-1", False), (True, "0", True)):
        if exists:
            runtime.GPU_DRIVER.touch()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        runtime.warn_of_unused_gpu()
        assert ("TensorFlow cannot use it and runs on the CPU" in caplog.text) == is_logged


def test_float32_means_float32_on_a_gpu_and_determinism_may_be_asked_for(monkeypatch):
    asked = []
    experimental = tf.config.experimental
    monkeypatch.setattr(experimental, "enable_tensor_float_32_execution", asked.append)
    monkeypatch.setattr(experimental, "enable_op_determinism", lambda: asked.append("deterministic"))
    runtime.configure(settings())
    assert asked == []
    runtime.configure(settings("RUNTIME.precision=float32", "RUNTIME.deterministic=True"))
    assert asked == [False, "deterministic"]
