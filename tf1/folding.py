"""Facts of the generator that need no TensorFlow: pixel shuffles, layers that may be merged or moved."""

from __future__ import annotations

import numpy as np

BATCH_NORM_EPSILON = 1e-5
PIXEL_SHUFFLES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # by the generator's scale


def fold_batch_norm(arrays: dict[str, np.ndarray], norms: dict[str, str]) -> dict[str, np.ndarray]:
    """Weights with each batch norm multiplied into its convolution; `norms` is the network's.

    gamma * (x - mean) / sqrt(var + eps) + beta is a scale of the filters and a bias.
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
    """A 1x1 convolution [1, 1, c, n] as [1, 1, r r c, r r n], which does the same before a shuffle by r."""
    blocks = np.kron(np.eye(r * r, dtype=np.float32), filters[0, 0])[None, None]
    return blocks, np.tile(biases, r * r)
