"""How much memory a training run takes on each device, by part. Formulas, not a simulation: see docs/plan.md.

The parts are not all there at once. Weights and moments are; gradients come into being while the backward pass frees
activations, and the optimiser's temporaries follow when those are gone. `Memory.peak` is the largest sum that is.

Shapes: B sequences a device holds at a time, S tokens each, H hidden, F filter, V vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from regraft.families import Architecture
from regraft.sizing.activations import block_bytes, kept_bytes
from regraft.sizing.counts import Counts, counts_of
from regraft.sizing.setup import Setup

CHUNK_ELEMENTS = {"fp32": 2**25, "bf16": 2**27, "fp16": 2**27}
"""Logits that the loss holds at a time (`regraft_worker.model.loss`), by precision."""
BLOCK_ELEMENTS = 2**22
"""Of these, what a processor makes a softmax of at a time."""
MOMENT_BYTES = {"adamw": 8.0, "adamw_torch": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}
"""Two moments per parameter: fp32, or one byte each and an fp32 scale for every 256 of them (torchao)."""
CPU_OVERHEAD = 360_000_000
"""Interpreter, torch and its libraries, HDF5: what a process holds that trains next to nothing, measured by
benchmarks/sizing.py."""
GPU_OVERHEAD = 1_500_000_000
"""CUDA context, cuBLAS work spaces, NCCL buffers: what an idle process holds of a card. Literature value."""
CPU_FRAGMENTATION = 0.3
"""What the allocator holds beyond activations, as a share of them. Measured by benchmarks/sizing.py."""
GPU_FRAGMENTATION = 0.05
"""The same of the caching allocator of a GPU. Literature value."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    weights: int
    """fp32, what the optimiser changes."""
    working_copies: int
    """What sharded training gathers."""
    gradients: int
    optimizer: int
    """Moments."""
    activations: int
    """What the backward pass needs of the forward pass."""
    logits: int
    """Of one chunk, with their gradients and the head's."""
    update: int
    """Temporaries of the optimiser's step."""
    overhead: int
    """Of the process."""
    peak: int
    """The most that is there at once."""

    @property
    def fixed(self) -> int:
        """What no micro-batch changes."""
        return self.weights + self.working_copies + self.optimizer + self.overhead


def memory_of(architecture: Architecture, setup: Setup, *, micro_batch: int, on_cpu: bool) -> Memory:
    """Estimate for `micro_batch` sequences at a time on each device."""
    counts, a = counts_of(architecture), architecture
    own = counts.total / _shards(setup)
    rows = micro_batch * setup.length
    gradients = own * 4
    activations = kept_bytes(a, setup, rows, on_cpu=on_cpu)
    activations = int(activations * (1 + (CPU_FRAGMENTATION if on_cpu else GPU_FRAGMENTATION)))
    parts = {
        "weights": own * 4,
        "working_copies": _working_copies(counts, setup),
        "gradients": gradients,
        "optimizer": own * MOMENT_BYTES[setup.optimizer],
        "activations": activations,
        "logits": _loss_bytes(a, setup, rows, on_cpu=on_cpu),
        "update": _update_bytes(counts, setup),
        "overhead": CPU_OVERHEAD if on_cpu else GPU_OVERHEAD,
    }
    stays = parts["weights"] + parts["working_copies"] + parts["optimizer"] + parts["overhead"]
    forward = activations + parts["logits"] + (gradients if setup.accumulates(micro_batch) else 0)
    backward = gradients + block_bytes(a, setup, rows, on_cpu=on_cpu)
    peak = stays + max(forward, backward, gradients + parts["update"])
    return Memory(**{name: int(value) for name, value in parts.items()}, peak=int(peak))


def bytes_per_parameter(setup: Setup) -> float:
    """Of weights, gradients and moments before they are divided: 16, or 10 with 8-bit moments."""
    return 4 + 4 + MOMENT_BYTES[setup.optimizer]


def host_snapshot_bytes(architecture: Architecture) -> int:
    """Main memory of the process that saves: weights and moments in fp32, copied so that training can go on."""
    return counts_of(architecture).total * 12


def _shards(setup: Setup) -> int:
    return setup.devices if setup.strategy == "fsdp" else 1


def _working_copies(counts: Counts, setup: Setup) -> float:
    """What sharded training gathers; casts of weights are made again where they are needed, and none is kept."""
    if setup.strategy != "fsdp":
        return 0.0
    # In fp32 whatever the precision. What is outside of blocks stays until the backward pass is over, and so do its
    # gradients; of blocks one computes while the next one is on its way, and its gradients wait to be divided.
    return 4 * (2 * counts.root + 3 * counts.block)


def _loss_bytes(a: Architecture, setup: Setup, rows: int, *, on_cpu: bool) -> float:
    """Logits of a chunk, and below fp32 their fp32 softmax, on a processor of a block of them; the head's gradient, and
    below fp32 its cast and the product before it is added; that of the rows."""
    chunk = min(rows, max(1, CHUNK_ELEMENTS[setup.precision] // a.vocab_size)) * a.vocab_size
    head = a.vocab_size * a.hidden_size
    if setup.precision == "fp32":
        return 4 * chunk + 4 * head + 4 * rows * a.hidden_size
    softmax = min(chunk, BLOCK_ELEMENTS) if on_cpu else chunk
    return 2 * chunk + 4 * softmax + 8 * head + 4 * rows * a.hidden_size


def _update_bytes(counts: Counts, setup: Setup) -> float:
    """The fused kernel takes none; three fp32 temporaries of its largest tensor the 8-bit optimiser."""
    return 3 * 4 * counts.largest_unit / _shards(setup) if setup.optimizer == "adamw_8bit" else 0.0
