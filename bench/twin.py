"""The program's networks in PyTorch, each layer made from the program's weights of the same name.

Pictures are [N, 3, h, w] in [-1, 1], in memory like the program's [N, h, w, 3] (channels_last).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Arrays = dict[str, np.ndarray]  # the program's: variable name -> value

LEAK = 0.2
BATCH_NORM = {"eps": 1e-5, "momentum": 0.1}  # PyTorch's momentum is 1 - decay
BGR_MEAN = (103.939, 116.779, 123.68)
VGG19_CONVS_PER_BLOCK = (2, 2, 4, 4, 4)


class Generator(nn.Module):
    """[N, 3, h, w] -> [N, 3, 4h, 4w]; without batch norm where `arrays` have it folded."""

    def __init__(self, arrays: Arrays, arguments: dict):
        """`arguments`: config.MODEL.generator."""
        super().__init__()
        assert (arguments["activation"], arguments["output_activation"]) == ("relu", "tanh")
        arrays = _below("SRGAN_g/", arrays)
        self.first = conv(arrays, "n64s1/c")
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *conv_norm(arrays, f"n64s1/c1/{i}", f"n64s1/b1/{i}"),
                nn.ReLU(inplace=True),
                *conv_norm(arrays, f"n64s1/c2/{i}", f"n64s1/b2/{i}"),
            )
            for i in range(arguments["num_blocks"])
        )
        self.trunk_end = nn.Sequential(*conv_norm(arrays, "n64s1/c/m", "n64s1/b/m"))
        for i in (1, 2):
            for name in (f"n256s1/{i}/filters", f"n256s1/{i}/biases"):
                arrays[name] = _to_pixel_shuffle(arrays[name])
        shuffle = (nn.ReLU(inplace=True), nn.PixelShuffle(2))
        self.upsampling = nn.Sequential(
            *(conv(arrays, "n256s1/1"), *shuffle, conv(arrays, "n256s1/2"), *shuffle, conv(arrays, "out"))
        )

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = head = F.relu(self.first(lr))
        for block in self.blocks:
            x = x + block(x)
        return torch.tanh(self.upsampling(head + self.trunk_end(x)).float())


class Discriminator(nn.Module):
    """[N, 3, p, p] -> logits [N, 1]."""

    def __init__(self, arrays: Arrays, arguments: dict):
        """`arguments`: config.MODEL.discriminator."""
        super().__init__()
        assert arguments["residual"] and not arguments["dense"], "the TensorLayer discriminator"
        arrays = _below("SRGAN_d/", arrays)
        lrelu = nn.LeakyReLU(LEAK, inplace=True)
        strides = [stride for _, stride, _ in arguments["convs"]]
        layers = [conv(arrays, "h0/c", strides[0])]
        for i, stride in enumerate(strides[1:], start=1):
            layers += [lrelu, *conv_norm(arrays, f"h{i}/c", f"h{i}/bn", stride)]
        self.trunk = nn.Sequential(*layers)
        self.residual = nn.Sequential(
            *(*conv_norm(arrays, "res/c", "res/bn"), lrelu, *conv_norm(arrays, "res/c2", "res/bn2"), lrelu),
            *conv_norm(arrays, "res/c3", "res/bn3"),
        )
        self.dense = nn.Linear(len(arrays["ho/dense/weights"]), 1)
        _set(self.dense.weight, arrays["ho/dense/weights"].T)
        _set(self.dense.bias, arrays["ho/dense/biases"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.trunk(images)
        x = F.leaky_relu(x + self.residual(x), LEAK)
        return self.dense(x.permute(0, 2, 3, 1).flatten(1)).float()  # weights are in the order h, w, c

    def keep_averages(self, keep: bool) -> None:
        """Whether a pass in training mode leaves batch norm's moving averages as they are."""
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.0 if keep else BATCH_NORM["momentum"]


class Vgg19(nn.Module):
    """[N, 3, h, w] -> features [N, c, h / n, w / n] of `layer`, after ReLU."""

    def __init__(self, arrays: Arrays, layer: str):
        super().__init__()
        arrays = _below("VGG19/", arrays)
        layers, names = [], []
        for block, count in enumerate(VGG19_CONVS_PER_BLOCK, start=1):
            for name in [f"conv{block}_{i}" for i in range(1, count + 1)] + [f"pool{block}"]:
                if layer not in names:
                    names.append(name)
                    pool = name.startswith("pool")
                    layers += (
                        [nn.MaxPool2d(2, ceil_mode=True)] if pool else [conv(arrays, name), nn.ReLU(True)]
                    )
        self.layers = nn.Sequential(*layers).requires_grad_(False)
        self.register_buffer("bgr_mean", torch.tensor(BGR_MEAN).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rgb = (images + 1.0) / 2.0
        return self.layers(rgb.flip(1) * 255.0 - self.bgr_mean).float()


class Conv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: what is odd of it goes to the bottom and right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top, bottom = _padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = _padding(x.shape[3], self.kernel_size[1], self.stride[1])
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left))


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def conv(arrays: Arrays, name: str, stride: int = 1) -> Conv:
    """The convolution `name`: filters [k, k, c_in, c_out], and biases where `arrays` have them."""
    filters, biases = arrays[f"{name}/filters"], arrays.get(f"{name}/biases")
    kernel, _, c_in, c_out = filters.shape
    layer = Conv(c_in, c_out, kernel, stride, bias=biases is not None)
    _set(layer.weight, filters.transpose(3, 2, 0, 1))
    if biases is not None:
        _set(layer.bias, biases)
    return layer


def conv_norm(arrays: Arrays, name: str, norm: str, stride: int = 1) -> list[nn.Module]:
    """The convolution `name` and the batch norm `norm`, which folded weights do not have."""
    layers = [conv(arrays, name, stride)]
    if f"{norm}/gamma" in arrays:
        layer = nn.BatchNorm2d(len(arrays[f"{norm}/gamma"]), **BATCH_NORM)
        _set(layer.weight, arrays[f"{norm}/gamma"])
        _set(layer.bias, arrays[f"{norm}/beta"])
        _set(layer.running_mean, arrays[f"{norm}/moving_mean"])
        _set(layer.running_var, arrays[f"{norm}/moving_var"])
        layers.append(layer)
    return layers


def _below(scope: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(scope): array for name, array in arrays.items() if name.startswith(scope)}


def _to_pixel_shuffle(array: np.ndarray) -> np.ndarray:
    """[..., 4c]: the four pixels' channels one after the other -> the channels' four pixels."""
    pixels_first = array.reshape(*array.shape[:-1], 4, -1)
    return pixels_first.swapaxes(-1, -2).reshape(array.shape)


def _set(tensor: torch.Tensor, array: np.ndarray) -> None:
    assert tensor.shape == array.shape, (tensor.shape, array.shape)
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
