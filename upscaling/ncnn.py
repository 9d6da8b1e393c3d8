"""Writes the generator as ncnn files (https://github.com/Tencent/ncnn) and runs it with ncnn.

Works without TensorFlow. The blobs `data` (input) and `output` are RGB in [0, 1], as upscayl and
Real-ESRGAN-ncnn-vulkan expect.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np

from common.errors import UserError
from tf1.folding import PIXEL_SHUFFLES, before_shuffle, fold_batch_norm

VERSION = "1.0.20261020"  # of the ncnn package, as in requirements-export.txt
FORMAT_MARK = "7767517"  # first line of a .param file
TRUNK = "trunk"  # the blob between the two stages


class Network:
    """A generator as ncnn layers: the lines of a .param file and the contents of a .bin file."""

    def __init__(self, arrays: dict, arguments: dict, source="the weights", *, float16: bool = False):
        """Takes arrays and meta["arguments"] of `load_generator`; source: names the weights in errors.

        float16: rounds weights and blobs to float16, like programs that store float16 and compute in float32.
        """
        self._lines: list[str] = []
        self._parts: list[bytes] = []
        self._num_blobs = 0
        self._float16, self._source = float16, source
        norms = [name.removesuffix("/gamma") for name in arrays if name.endswith("/gamma")]
        try:
            # batch norm n64s1/b1/0 follows convolution n64s1/c1/0
            self._arrays = fold_batch_norm(arrays, {norm: norm.replace("s1/b", "s1/c") for norm in norms})
            self._build(**arguments)
        except KeyError as error:
            raise UserError(f"{source} does not fit this network: it lacks {error}") from None
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"{source} describes an unknown network: {error}") from None
        for name in sorted(self._arrays):
            raise UserError(f"{source} does not fit this network: {name} is unexpected")

    def write(self, path: Path) -> None:
        """Writes `path`, NAME.param, and NAME.bin beside it."""
        head = [FORMAT_MARK, f"{len(self._lines)} {self._num_blobs}"]
        path.write_text("\n".join([*head, *self._lines]) + "\n")
        path.with_suffix(".bin").write_bytes(b"".join(self._parts))

    def _build(
        self,
        num_blocks: int,
        num_filters: int,
        first_kernel: int,
        last_kernel: int,
        activation: str,
        output_activation: str,
        scale: int,
    ) -> None:
        """Adds the layers of model.SRGAN_g in order."""
        assert activation in ("relu", "prelu") and output_activation in ("tanh", "linear")
        assert scale in PIXEL_SHUFFLES, f"scale {scale}"
        is_relu = activation == "relu"

        def conv(x, name, filters=num_filters, relu=False):
            return self._conv(x, name, *self._take_conv(name, 3, num_filters, filters), relu=relu)

        def prelu(x, name):
            if is_relu:
                return x
            self._store(self._take(f"{name}/alpha", num_filters))
            return self._add("PReLU", [x], [name], f"0={num_filters}")

        self._add("Input", [], ["data"])
        # the filters expect 2 x - 1 in [-1, 1]; zero padding there is x = 0.5 here
        filters, biases = self._take_conv("n64s1/c", first_kernel, 3, num_filters)
        folded = 2 * filters, biases - filters.sum((0, 1, 2))
        x = prelu(self._conv("data", "n64s1/c", *folded, relu=is_relu, padding=0.5), "n64s1/a")
        head, x = self._split(x)
        for i in range(num_blocks):
            block_input, x = self._split(x)
            x = prelu(conv(x, f"n64s1/c1/{i}", relu=is_relu), f"n64s1/a1/{i}")
            x = conv(x, f"n64s1/c2/{i}")
            x = self._add("BinaryOp", [block_input, x], [f"b_residual_add/{i}"], "0=0")
        x = conv(x, "n64s1/c/m")
        x = self._add("BinaryOp", [head, x], [TRUNK], "0=0")

        filters, biases = self._take_conv("out", last_kernel, num_filters, 3)
        if output_activation == "tanh":
            filters, biases, last = 2 * filters, 2 * biases, "Sigmoid"  # (tanh(x) + 1) / 2 = sigmoid(2 x)
        else:
            filters, biases, last = filters / 2, biases / 2 + 0.5, "Clip"
        # a final 1x1 convolution commutes with the last shuffle, which then moves fewer channels
        self.is_out_moved = last_kernel == 1 and is_relu
        factors = PIXEL_SHUFFLES[scale]
        for i, r in enumerate(factors, start=1):
            x = conv(x, f"n256s1/{i}", r * r * num_filters, relu=is_relu)
            if self.is_out_moved and i == len(factors):
                x = self._conv(x, "out", *before_shuffle(filters, biases, r))
            x = self._add("PixelShuffle", [x], [f"pixelshuffle/{i}"], f"0={r} 1=1")
            x = prelu(x, f"n256s1/a/{i}")
        if not self.is_out_moved:
            x = self._conv(x, "out", filters, biases)
        self._add(last, [x], ["output"], "0=0 1=1" if last == "Clip" else "")

        self.num_filters = num_filters
        self.trunk_halo = first_kernel // 2 + 2 * num_blocks + 1  # receptive field to each side, in px of LR
        scales = [math.prod(factors[:i]) for i in range(len(factors))]
        self.head_halo = math.ceil(sum(1 / at for at in scales) + last_kernel // 2 / scale)

    def _take(self, name: str, *shape: int) -> np.ndarray:
        name = f"SRGAN_g/{name}"
        array = self._arrays.pop(name)
        if array.shape != shape:
            raise UserError(f"{self._source} does not fit this network: {name} is {array.shape}, not {shape}")
        return array

    def _take_conv(self, name: str, kernel: int, depth: int, filters: int) -> tuple[np.ndarray, np.ndarray]:
        """Filters [kernel, kernel, depth, filters] and biases [filters]."""
        shape = kernel, kernel, depth, filters
        return self._take(f"{name}/filters", *shape), self._take(f"{name}/biases", filters)

    def _conv(self, x: str, name: str, filters, biases, *, relu=False, padding=0.0) -> str:
        kernel, *_, count = filters.shape
        before, after = (kernel - 1) // 2, kernel // 2
        options = f"0={count} 1={kernel} 4={before} 15={after} 16={after} 5=1 6={filters.size} 18={padding}"
        self._parts.append(b"\0\0\0\0")  # float32 follows
        self._store(filters.transpose(3, 2, 0, 1))
        self._store(biases)
        return self._add("Convolution", [x], [name], options + " 9=1" * relu)

    def _split(self, x: str) -> tuple[str, str]:
        """Returns two names for a blob that two layers read."""
        names = f"{x}/skip", f"{x}/next"
        self._add("Split", [x], names)
        return names

    def _add(self, kind: str, inputs, outputs, options: str = "") -> str:
        """Adds a layer and returns its first output."""
        name = outputs[0]
        if self._float16 and kind not in ("Input", "Split"):
            self._line(kind, inputs, [f"{name}/float32"], options)
            self._line("Cast", [f"{name}/float32"], [f"{name}/float16"], "0=1 1=2")
            self._line("Cast", [f"{name}/float16"], [name], "0=2 1=1")
        else:
            self._line(kind, inputs, outputs, options)
        return name

    def _line(self, kind: str, inputs, outputs, options: str) -> None:
        words = [kind, outputs[0], str(len(inputs)), str(len(outputs)), *inputs, *outputs, options]
        self._lines.append(" ".join(words).rstrip())
        self._num_blobs += len(outputs)

    def _store(self, array: np.ndarray) -> None:
        rounded = array.astype(np.float16) if self._float16 else array
        self._parts.append(rounded.astype("<f4").tobytes())


class Runner:
    """Runs NAME.param and NAME.bin with ncnn, in float32, on the CPU or on a GPU with Vulkan."""

    def __init__(self, path: Path, threads: int = 0, use_vulkan: bool = False):
        """path: NAME.param; threads: 0 for one per core."""
        # set before OpenMP is loaded: spinning threads took six times the CPU time
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        import ncnn

        self._net = ncnn.Net()
        option = self._net.opt
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
        option.use_vulkan_compute = use_vulkan
        option.use_sgemm_convolution = False  # with 9x9 filters: 11 times the memory, 6 times the time
        if threads:
            option.num_threads = threads
        # ncnn's default allocators never free memory; a Net does not keep its allocator alive
        self._pool = option.blob_allocator = option.workspace_allocator = ncnn.PoolAllocator()
        self._most_px: dict[str, int] = {}  # largest image by source blob since the pool was cleared
        failed = self._net.load_param(str(path)) or self._net.load_model(str(path.with_suffix(".bin")))
        assert not failed, path

    def __call__(self, image: np.ndarray, source: str = "data", target: str = "output") -> np.ndarray:
        """Feeds float32 [h, w, channels] to `source` and returns `target` in the same layout."""
        px = image.shape[0] * image.shape[1]
        if px > self._most_px.get(source, px):  # else the pool also keeps blocks that are now too small
            self._pool.clear()
            self._most_px.clear()
        self._most_px[source] = max(px, self._most_px.get(source, 0))
        failed, made = self._extractor(image, source).extract(target)
        if failed:
            raise MemoryError
        return np.array(made).transpose(1, 2, 0)

    def largest_activation(self, image: np.ndarray) -> float:
        """float32 [h, w, 3] in [0, 1] -> the largest absolute value in any blob."""
        extractor = self._extractor(image, "data")
        extractor.set_light_mode(False)  # keeps all blobs
        blobs = (np.array(extractor.extract(blob.name)[1]) for blob in self._net.blobs())
        return max(float(np.abs(blob).max()) for blob in blobs)

    def _extractor(self, image: np.ndarray, source: str):
        import ncnn

        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        extractor = self._net.create_extractor()
        extractor.input(source, ncnn.Mat(planes).clone())  # a Mat does not keep its array alive
        return extractor


def count_gpus() -> int:
    """Returns the number of GPUs that ncnn can use."""
    import ncnn

    return ncnn.get_gpu_count()


class NcnnEngine:
    """ncnn implementation of upscaling.upscaler.Engine; always computes in float32."""

    live_trunk_tensors = 16  # measured; includes Winograd's transforms

    def __init__(self, arrays: dict, arguments: dict, settings, source, use_vulkan: bool = False):
        self.device = "GPU, by ncnn and Vulkan" if use_vulkan else "CPU, by ncnn"
        if settings.precision == "bfloat16":
            raise UserError("RUNTIME.precision=bfloat16 needs --engine tensorflow: ncnn computes in float32")
        network = Network(arrays, arguments, source)
        self.num_filters = network.num_filters
        self.trunk_halo, self.head_halo = network.trunk_halo, network.head_halo
        self.live_head_tensors = 8 if network.is_out_moved else 17  # measured
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.param"
            network.write(path)
            try:
                if use_vulkan and not count_gpus():
                    raise UserError("--engine ncnn-vulkan: ncnn found no GPU with Vulkan; use --engine ncnn")
                self._run = Runner(path, settings.intra_op_threads, use_vulkan)
            except ModuleNotFoundError:
                raise UserError(
                    f"--engine ncnn needs the package ncnn: pip install ncnn=={VERSION}"
                ) from None

    def trunk(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w, 3] -> float32 [h, w, num_filters]."""
        return self._run(pixels / np.float32(np.iinfo(pixels.dtype).max), target=TRUNK)

    def head(self, features: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """float32 [h, w, num_filters] -> [scale * h, scale * w, 3] in [-1, 1]; dtype is ignored."""
        return 2 * self._run(features, source=TRUNK) - 1

    def close(self) -> None:
        del self._run
