"""Transformations of the generator's layers for faster inference, without TensorFlow."""

from __future__ import annotations

import numpy as np

BATCH_NORM_EPSILON = 1e-5
PIXEL_SHUFFLES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # by the generator's scale


def fold_batch_norm(arrays: dict[str, np.ndarray], norms: dict[str, str]) -> dict[str, np.ndarray]:
    """Returns the weights with each batch norm folded into its convolution; norms: {norm scope: conv scope}.

    gamma * (x - mean) / sqrt(var + eps) + beta scales the filters and adds a bias.
    """
    folded = dict(arrays)
    for norm, conv in norms.items():
        gamma, beta, mean, var = (
            folded.pop(f"{norm}/{name}") for name in ("gamma", "beta", "moving_mean", "moving_var")
        )
        scale = gamma / np.sqrt(var + BATCH_NORM_EPSILON)
        folded[f"{conv}/filters"] = arrays[f"{conv}/filters"] * scale
        folded[f"{conv}/biases"] = beta - mean * scale
    return folded


def before_shuffle(filters: np.ndarray, biases: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """[1, 1, c, n] after a pixel shuffle by r -> [1, 1, r r c, r r n] before it, for a 1x1 convolution."""
    blocks = np.kron(np.eye(r * r, dtype=np.float32), filters[0, 0])[None, None]
    return blocks, np.tile(biases, r * r)
