"""The start of TensorFlow, which takes seconds: after everything that could refuse the command."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile

log = logging.getLogger("srgan")


@contextlib.contextmanager
def tensorflow_start():
    """Sets TensorFlow's environment and keeps its and TensorLayer's start-up messages from the user.

    They are written by C++ code to the process's error stream, before any logger can filter them;
    they appear if importing fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # real errors arrive as exceptions
    # TensorFlow itself turns oneDNN on for AVX-512 only, though it halves a step on AVX2 too
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except BaseException:
            messages.seek(0)
            os.write(kept, messages.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def start_tensorflow() -> None:
    """Imports TensorFlow and what prints messages with it, once; warns if it cannot use the GPU."""
    if "tensorflow" in sys.modules:
        return
    log.info("Starting TensorFlow")
    with tensorflow_start():
        import tensorflow as tf

        tf.config.list_physical_devices()  # its complaints about missing GPU drivers come here
        tf.get_logger().setLevel("ERROR")
        from tf1 import layers, runtime  # noqa: F401
    runtime.warn_of_unused_gpu()
