"""The program's networks in PyTorch, in training mode, with the program's weights and names.

Images are [N, 3, h, w] in [-1, 1], stored as [N, h, w, 3] like the program's (channels_last).
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LEAK = 0.2
BATCH_NORM_MOMENTUM = 0.1  # PyTorch's momentum is 1 - decay
BGR_MEAN = (103.939, 116.779, 123.68)
VGG19_CONVS_PER_BLOCK = (2, 2, 4, 4, 4)
AVERAGES = ("moving_mean", "moving_var")  # batch norm's, which are not trained


def to_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, h, w, 3] -> float32 [N, 3, h, w] in [-1, 1], channels_last."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


class Network(nn.Module):
    """Holds the arrays of `scope` as parameters and buffers; arguments: as in config.MODEL."""

    def __init__(self, scope: str, arrays: dict[str, np.ndarray], arguments: dict | None = None):
        super().__init__()
        self.arguments, self.momentum = arguments, BATCH_NORM_MOMENTUM
        for name, array in arrays.items():
            if name.startswith(f"{scope}/"):
                if array.ndim == 4:
                    array = array.transpose(3, 2, 0, 1)
                if "n256s1" in name:  # order of channels: TensorFlow's pixel shuffle -> PyTorch's
                    array = array.reshape(4, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
                tensor = torch.from_numpy(np.ascontiguousarray(array)).clone()
                is_trained = not name.endswith(AVERAGES)
                register = self.register_parameter if is_trained else self.register_buffer
                register(name.removeprefix(f"{scope}/"), nn.Parameter(tensor) if is_trained else tensor)

    def conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """Convolution with TensorFlow's "SAME" padding, which puts an odd pixel at the bottom and right."""
        filters, biases = getattr(self, f"{name}/filters"), getattr(self, f"{name}/biases", None)
        side = x.shape[2]  # only matters with a stride, and those images are square
        padding = max(0, (-(-side // stride) - 1) * stride + filters.shape[2] - side)
        if padding % 2:
            x, padding = F.pad(x, (padding // 2, padding // 2 + 1) * 2), 0
        return F.conv2d(x, filters, biases, stride, padding // 2)

    def conv_norm(self, x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        of_norm = (getattr(self, f"{norm}/{name}") for name in (*AVERAGES, "gamma", "beta"))
        x = self.conv(x, name, stride)
        return F.batch_norm(x, *of_norm, True, self.momentum, eps=1e-5)


class Generator(Network):
    """[N, 3, h, w] -> [N, 3, 4h, 4w], as in recipe tensorlayer."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = head = F.relu_(self.conv(lr, "n64s1/c"))
        for i in range(self.arguments["num_blocks"]):
            y = F.relu_(self.conv_norm(x, f"n64s1/c1/{i}", f"n64s1/b1/{i}"))
            x = x + self.conv_norm(y, f"n64s1/c2/{i}", f"n64s1/b2/{i}")
        x = head + self.conv_norm(x, "n64s1/c/m", "n64s1/b/m")
        for i in (1, 2):
            x = F.pixel_shuffle(F.relu_(self.conv(x, f"n256s1/{i}")), 2)
        return torch.tanh(self.conv(x, "out").float())


class Discriminator(Network):
    """[N, 3, p, p] -> logits [N, 1], as in recipe tensorlayer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        strides = [stride for _, stride, _ in self.arguments["convs"]]
        x = self.conv(images, "h0/c", strides[0])
        for i, stride in enumerate(strides[1:], start=1):
            x = self.conv_norm(F.leaky_relu_(x, LEAK), f"h{i}/c", f"h{i}/bn", stride)
        y = F.leaky_relu_(self.conv_norm(x, "res/c", "res/bn"), LEAK)
        y = F.leaky_relu_(self.conv_norm(y, "res/c2", "res/bn2"), LEAK)
        x = F.leaky_relu(x + self.conv_norm(y, "res/c3", "res/bn3"), LEAK)
        x = x.permute(0, 2, 3, 1).flatten(1)  # the weights expect the order h, w, c
        weights, biases = (getattr(self, f"ho/dense/{name}") for name in ("weights", "biases"))
        return F.linear(x, weights.T, biases).float()


class Vgg19(Network):
    """[N, 3, h, w] -> features [N, c, h / n, w / n] of a pooling layer."""

    def forward(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        mean = torch.tensor(BGR_MEAN, device=images.device).view(1, 3, 1, 1)
        x = (images + 1.0).flip(1) * 127.5 - mean
        for block in range(1, int(layer.removeprefix("pool")) + 1):
            for i in range(VGG19_CONVS_PER_BLOCK[block - 1]):
                x = F.relu_(self.conv(x, f"conv{block}_{i + 1}"))
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return x.float()
