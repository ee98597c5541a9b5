"""Model FLOPs utilisation: the arithmetic a model needs, over what the device could do in the same time.

Needed per token, forward and backward, as it is usually counted:

    6 * P + 12 * L * H * S

P: parameters that take part in matrix products: layers and head, not the input embedding, which only looks up.
L layers, H hidden size, S sequence length: the two products of attention over the whole window, causal or not.
Recomputed activations do not count, so that activation checkpointing lowers the figure, as it should.

Peaks are dense bf16 figures of the makers. For fp32, and for devices not in the table, there is no figure rather than a
wrong one.
"""

from __future__ import annotations

from regraft.families import Architecture

PEAK_FLOPS = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "A40": 1.497e14,
    "A10": 1.25e14,
    "L4": 1.21e14,
    "RTX 4090": 1.652e14,
    "RTX 3090": 7.1e13,
}
"""Per second and device, by a part of the device's name; the first that is part of it counts."""
_HALF = ("bf16", "fp16")


def flops_per_token(architecture: Architecture, length: int) -> int:
    """Forward and backward of one token in a window of `length`."""
    hidden, layers = architecture.hidden_size, architecture.num_layers
    of_a_layer = 4 * hidden**2 + 2 * hidden * architecture.filter_size
    in_products = layers * of_a_layer + architecture.vocab_size * hidden
    return 6 * in_products + 12 * layers * hidden * length


def peak_flops(device_name: str, precision: str) -> float | None:
    """Of one device; None: not known."""
    if precision not in _HALF:
        return None
    return next((peak for part, peak in PEAK_FLOPS.items() if _is_part(part, device_name)), None)


def _is_part(part: str, name: str) -> bool:
    words, wanted = name.replace("-", " ").split(), part.split()
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words)))
