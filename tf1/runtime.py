"""Session options, devices, precision and stop signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import tensorflow as tf

log = logging.getLogger("srgan")

GPU_DRIVER = Path("/proc/driver/nvidia/version")
GRACE_S = 20  # schedulers usually send SIGKILL 30 s after SIGTERM


def session_config(settings) -> tf.compat.v1.ConfigProto:
    """Session options from `config.RUNTIME`; GPU memory is allocated as needed."""
    options = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    options.intra_op_parallelism_threads = settings.intra_op_threads
    options.gpu_options.allow_growth = True
    if settings.devices and not has_gpu():  # virtual CPU devices, to try out several devices
        options.device_count["CPU"] = settings.devices
    if settings.xla:
        options.graph_options.optimizer_options.global_jit_level = tf.compat.v1.OptimizerOptions.ON_1
    return options


def configure(settings) -> None:
    """Applies the process-wide settings of `config.RUNTIME`."""
    if settings.precision == "float32":  # disable TF32, whose mantissa has 10 bits
        tf.config.experimental.enable_tensor_float_32_execution(False)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()


def warn_of_unused_gpu() -> None:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")  # deliberately
    if GPU_DRIVER.exists() and not hidden and not has_gpu():
        log.warning(
            "WARNING: this machine has an NVIDIA GPU, but TensorFlow cannot use it and runs on the CPU. "
            "Install the CUDA libraries: pip install 'tensorflow[and-cuda]==%s'",
            tf.__version__,
        )


def allow_reduced_precision(options: tf.compat.v1.ConfigProto, dtype: tf.DType) -> None:
    """Lets the graph optimiser use bfloat16 on a CPU; explicit casts would prevent some fusions."""
    if dtype == tf.bfloat16:
        rewrites = options.graph_options.rewrite_options
        rewrites.auto_mixed_precision_onednn_bfloat16 = type(rewrites).ON


def compute_dtype(precision: str) -> tf.DType:
    """The dtype of convolutions: 'auto' is bfloat16 if the hardware supports it, else float32."""
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16() else "float32"
    return tf.as_dtype(precision)


def has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def has_bfloat16() -> bool:
    """Whether the first GPU, or else the CPU, has bfloat16 matrix instructions."""
    if has_gpu():
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def cpu_flags() -> set[str]:
    """The CPU's features, such as avx2; empty if they cannot be read."""
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux
        return set()


def describe_device() -> str:
    """Names the device that sessions run on."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return f"GPU ({', '.join(names)})"


class StopSignal:
    """Records SIGINT or SIGTERM in `signal`, so that the run can finish a step, save and stop.

    Every host but the chief keeps training for `GRACE_S` while the chief finishes its step and saves, then
    exits at once: if it stopped cleanly between two steps, the other hosts would wait for it forever.
    """

    def __init__(self, is_chief: bool = True):
        self.signal, self._is_chief = 0, is_chief

    def __enter__(self):
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        if not self._is_chief:
            received, written = os.pipe()
            os.set_blocking(written, False)
            signal.set_wakeup_fd(written)  # immediate; Python's handlers run only after a step
            threading.Thread(target=_die_after_signal, args=[received], daemon=True).start()
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if not self._is_chief:
            signal.set_wakeup_fd(-1)

    def _handle(self, number, _frame):
        if self.signal:  # a second signal: exit at once; files are renamed only when complete
            os._exit(128 + number)
        if self._is_chief:
            self.signal = number


def _die_after_signal(pipe: int) -> None:
    number = os.read(pipe, 1)[0]
    time.sleep(GRACE_S)
    os._exit(128 + number)
