"""Facts of the generator that need no TensorFlow: pixel shuffles, batch norm as part of convolutions."""

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
