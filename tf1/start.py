"""Starts TensorFlow. This takes seconds, so commands are checked first."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile

log = logging.getLogger("srgan")


@contextlib.contextmanager
def _starting():
    """Sets TensorFlow's environment variables and hides start-up messages of TensorFlow and TensorLayer.

    C++ code writes them to stderr, where no logger can filter them. They are shown if the import fails.
    Ctrl-C ends the process: a KeyboardInterrupt would get lost in a callback of an import.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors are raised as exceptions
    # TensorFlow enables oneDNN only with AVX-512, but it also halves the time of a step on AVX2
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    kept, handler = os.dup(2), signal.signal(signal.SIGINT, signal.SIG_DFL)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except BaseException:
            messages.seek(0)
            os.write(kept, messages.read())
            raise
        finally:
            signal.signal(signal.SIGINT, handler)
            os.dup2(kept, 2)
            os.close(kept)


def start_tensorflow() -> None:
    """Imports TensorFlow and TensorLayer, once; warns if TensorFlow cannot use the GPU."""
    if "tensorflow" in sys.modules:
        return
    log.info("Starting TensorFlow")
    with _starting():
        import tensorflow as tf

        tf.config.list_physical_devices()  # triggers messages about missing GPU drivers
        tf.get_logger().setLevel("ERROR")
        from tf1 import layers, runtime  # noqa: F401
    runtime.warn_of_unused_gpu()
