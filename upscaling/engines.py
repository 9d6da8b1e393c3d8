"""Exported networks run by the engines they are meant for: TensorFlow, ONNX Runtime, LiteRT, ncnn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from images.pixels import to_integers
from upscaling import ncnn

CPU_ONLY = tf.compat.v1.ConfigProto(device_count={"GPU": 0})  # or a session takes all its memory

Engine = Callable[[np.ndarray], np.ndarray]  # uint8 [n, h, w, 3] -> uint8 [n, scale * h, scale * w, 3]


def run(path: Path, format: str, image: np.ndarray) -> np.ndarray | None:
    """Upscales a uint8 image by an export's own engine; None for TensorLayer's npz, which has no engine."""
    return None if format == "tensorlayer" else engine(path, format)(image[None])[0]


def engine(path: Path, format: str, threads: int = 0) -> Engine:
    """TensorFlow, ONNX Runtime, ncnn or LiteRT with a file loaded; 0 threads: its default."""
    if format == "savedmodel":
        graph = tf.Graph()
        session = tf.compat.v1.Session(graph=graph, config=CPU_ONLY)
        with graph.as_default():
            loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
        signature = loaded.signature_def["serving_default"]
        image, output = signature.inputs["input_image"].name, signature.outputs["output_image"].name
        return lambda images: session.run(output, {image: images})
    if format.startswith("onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        runner = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda images: runner.run(None, {"input_image": images})[0]
    if format == "ncnn":
        run_one = ncnn.Runner(path, threads)

        def run_ncnn(images: np.ndarray) -> np.ndarray:
            sr = np.stack([run_one(image / np.float32(255)) for image in images])
            return to_integers(2 * sr - 1)

        return run_ncnn
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads or None)

    def run_tflite(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images.astype(np.float32) / 255)
        interpreter.invoke()
        sr = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return to_integers(2 * sr - 1)

    return run_tflite
