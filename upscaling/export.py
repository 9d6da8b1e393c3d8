"""Exports the generator for other programs: SavedModel, ONNX, TFLite, ncnn and TensorLayer 1.x's npz.

Batch norm is folded; height, width and batch size are free. Before a network is kept, its runtime runs it and
the result is compared with the program's. The npz holds the original arrays and is only read back.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from easydict import EasyDict as edict

from common.errors import UserError
from common.files import atomic, require_writable
from images import metrics, photos
from images.pixels import to_integers
from model import SRGAN_g, layout
from tf1 import checkpoints, third_party
from tf1.folding import fold_batch_norm
from upscaling import ncnn
from upscaling.graph import freeze
from upscaling.upscaler import Upscaler

log = logging.getLogger("srgan")

EVERYBODYS = ("savedmodel", "onnx", "tflite", "ncnn")  # the formats of 'all'
NAMES = {  # file names; {} is the scale
    "savedmodel": "savedmodel",
    "onnx": "srgan_x{}.onnx",
    "tflite": "srgan_x{}.tflite",
    "ncnn": "srgan_x{}.param",  # plus srgan_x{}.bin
    "tensorlayer": "g_srgan.npz",
}
MAX_DIFFERENCE = 1  # between an export and the program, in 8-bit values
OPSET = 17
ENDS = ["input_image:0", "output_image:0"]  # tensors of an exported graph
HOW_TO_INSTALL = "pip install -r requirements-export.txt"
CARD_TITLE = "# SRGAN x"
CPU_ONLY = tf.compat.v1.ConfigProto(device_count={"GPU": 0})  # else a session allocates all GPU memory


def export(arrays: dict, meta: dict, settings, folder: Path, format: str) -> None:
    """Writes a generator of `load_generator` to `folder` in one format or 'all', with a model card."""
    formats = EVERYBODYS if format == "all" else (format,)
    scale = meta["arguments"]["scale"]
    paths = {name: folder / NAMES[name].format(scale) for name in formats}
    files = [*paths.values(), *(path.with_suffix(".bin") for name, path in paths.items() if name == "ncnn")]
    for file in files:
        if file.exists():
            raise UserError(f"--output: {file} already exists: name another folder or remove it")
    card = folder / "README.md"
    before = card.read_text(errors="replace") if card.exists() else CARD_TITLE
    if not before.startswith(CARD_TITLE):
        raise UserError(f"--output: {card} is not a model card of this program: name another folder")
    require_writable(folder, "--output")
    hr, lr = photos.validation_pair(scale, photos.SAMPLE)
    with Upscaler(arrays, meta["arguments"], edict({**settings, "precision": "float32"})) as upscaler:
        expected = {size: upscaler(lr[: size[0], : size[1]]) for size in (lr.shape[:2], (37, 50))}
    lines = [line for line in before.splitlines() if line.startswith("- ") and ": " in line]
    for name, path in paths.items():
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as work:
            try:
                WRITERS[name](Path(work, path.name), arrays, meta["arguments"])
                verdict = _verdict(Path(work, path.name), name, lr, expected)
                if name == "ncnn":
                    verdict += _in_float16(arrays, meta["arguments"], lr, expected)
            except ModuleNotFoundError as error:
                raise UserError(f"--format {name} needs the package {error.name}: {HOW_TO_INSTALL}") from None
            for file in Path(work).iterdir():
                file.rename(folder / file.name)
        lines.append(f"- {path.name}: {verdict}")
        log.info("Wrote %s: %s", path, verdict)
    sr = expected[lr.shape[:2]]
    score = f"{metrics.psnr_y(sr, hr, scale):.2f} dB, SSIM {metrics.ssim_y(sr, hr, scale):.4f}"
    with atomic(card) as part:
        part.write_text(_card(meta, lines, score))


def _verdict(path: Path, format: str, lr: np.ndarray, expected: dict) -> str:
    """Describes an export's largest difference from the program; raises UserError above MAX_DIFFERENCE."""
    if format == "tensorlayer":
        return "173 arrays, bit-for-bit identical"
    run = engine(path, format)
    made = {(height, width): run(lr[None, :height, :width])[0] for height, width in expected}
    most = max(np.abs(made[size].astype(int) - expected[size]).max() for size in expected)
    if most > MAX_DIFFERENCE:
        raise UserError(
            f"--format {format}: the exported network differs from the program by {most} 8-bit values: "
            "not written"
        )
    return f"differs from the program by at most {most} of 255"


def _in_float16(arrays: dict, arguments: dict, lr: np.ndarray, expected: dict) -> str:
    """Describes the effect of float16 storage in ncnn, which programs use on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float16.param"
        ncnn.Network(arrays, arguments, float16=True).write(path)
        run_rounded, image = ncnn.Runner(path), (lr / 255).astype(np.float16)
        difference = np.abs(to_integers(2 * run_rounded(image) - 1).astype(int) - expected[lr.shape[:2]])
        largest = run_rounded.largest_activation(image)
    return (
        f", with float16 storage by {difference.max()}; largest activation {largest:.3g} "
        f"(float16 ends at {np.finfo(np.float16).max:.0f})"
    )


# -- the graph


def _frozen(arrays: dict, arguments: dict, of_bytes: bool) -> tf.compat.v1.GraphDef:
    """Builds the inference graph from `input_image` to `output_image`, with constant weights.

    of_bytes: uint8 input and output; otherwise float32 in [0, 1].
    """
    with tf.Graph().as_default(), tf.compat.v1.Session(config=CPU_ONLY) as session:
        dtype = tf.uint8 if of_bytes else tf.float32
        input_image = tf.compat.v1.placeholder(dtype, [None, None, None, 3], "input_image")
        half = 127.5 if of_bytes else 0.5
        net = SRGAN_g(tf.cast(input_image, tf.float32) / half - 1.0, norm=False, **arguments)
        checkpoints.assign(session, net.all_params, fold_batch_norm(arrays, net.norms), "the weights")
        output = tf.clip_by_value((tf.identity(net.outputs) + 1.0) * half, 0.0, 2 * half)
        output = tf.cast(tf.round(output), tf.uint8) if of_bytes else output
        output = tf.identity(output, "output_image")
        return freeze(session, output)


# -- writing


def _write_savedmodel(path: Path, arrays: dict, arguments: dict) -> None:
    """Writes one graph with two signatures: `serving_default` for uint8, `float` for float32 in [0, 1]."""
    builder = tf.compat.v1.saved_model.Builder(str(path))
    signature = tf.compat.v1.saved_model.signature_def_utils.predict_signature_def
    with tf.Graph().as_default(), tf.compat.v1.Session(config=CPU_ONLY) as session:
        signatures = {}
        for name, of_bytes in (("serving_default", True), ("float", False)):
            frozen = _frozen(arrays, arguments, of_bytes)
            image, output = tf.graph_util.import_graph_def(frozen, name=name, return_elements=ENDS)
            signatures[name] = signature({"input_image": image}, {"output_image": output})
        builder.add_meta_graph_and_variables(
            session, [tf.compat.v1.saved_model.tag_constants.SERVING], signature_def_map=signatures
        )
        builder.save()


def _write_onnx(path: Path, arrays: dict, arguments: dict) -> None:
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    frozen = _frozen(arrays, arguments, of_bytes=True)
    model, _ = tf2onnx.convert.from_graph_def(
        frozen, input_names=ENDS[:1], output_names=ENDS[1:], opset=OPSET
    )
    for value in (*model.graph.input, *model.graph.output):
        value.name = value.name.removesuffix(":0")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.removesuffix(":0") if name in ENDS else name for name in names]
    path.write_bytes(model.SerializeToString())


def _write_tflite(path: Path, arrays: dict, arguments: dict) -> None:
    frozen = _frozen(arrays, arguments, of_bytes=False)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=CPU_ONLY) as session:
        image, output = tf.graph_util.import_graph_def(frozen, name="", return_elements=ENDS)
        converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, [image], [output])
        with contextlib.redirect_stderr(io.StringIO()):
            path.write_bytes(converter.convert())


def _write_tensorlayer(path: Path, arrays: dict, arguments: dict) -> None:
    expected, shapes = layout("SRGAN_g")
    checkpoints.require_same_arguments("the weights", arguments, expected)
    third_party.write_list(path, [arrays[name] for name in shapes])
    with zipfile.ZipFile(path) as file:
        read = third_party.named_list(path, file, shapes)
    assert all(np.array_equal(read[name], arrays[name]) for name in shapes)


WRITERS = {
    "savedmodel": _write_savedmodel,
    "onnx": _write_onnx,
    "tflite": _write_tflite,
    "ncnn": lambda path, arrays, arguments: ncnn.Network(arrays, arguments).write(path),
    "tensorlayer": _write_tensorlayer,
}


# -- running


def engine(path: Path, format: str, threads: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an exported file in TensorFlow, ONNX Runtime, ncnn or LiteRT; threads: 0 for the default.

    Returns a function: uint8 [n, h, w, 3] -> uint8 [n, scale * h, scale * w, 3].
    """
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


# -- the card


def _card(meta: dict, lines: list[str], score: str) -> str:
    listed, scale = "\n".join(lines), meta["arguments"]["scale"]
    return f"""{CARD_TITLE}{scale}

An SRGAN generator (Ledig et al. 2017) that enlarges RGB images by {scale}, trained with recipe
`{meta["recipe"]}` for {meta["step"]} steps. {score} on a sample photograph (Y, {scale} px border removed).

{listed}

Input `input_image`, output `output_image`: [batch, height, width, 3], RGB; SavedModel (`serving_default`) and
ONNX take and return uint8; TFLite and the SavedModel's signature `float` use float32 in [0, 1]. ncnn's `data`
and `output` are [3, height, width], RGB in [0, 1]. Height, width and batch size are free; inference needs
about 1 kB of memory per pixel of the result.

```python
import numpy, onnxruntime, imageio.v3
image = imageio.v3.imread("photo.png")[None, ..., :3]
network = onnxruntime.InferenceSession("{NAMES["onnx"].format(scale)}")
(enlarged,) = network.run(None, {{"input_image": image}})
imageio.v3.imwrite("photo_x{scale}.png", enlarged[0])
```

Licence: MIT, like the program that exported it.
"""
