"""Whether a run fits a device, with how large a micro-batch, and if not, which setting would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from regraft.families import Architecture
from regraft.sizing.memory import Memory, memory_of
from regraft.sizing.setup import FIELDS, Setup

HEADROOM = 0.95
"""Share of the memory that an estimate may fill."""
MOST_DEVICES = 64


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A run on devices of one size."""

    setup: Setup
    memory: Memory
    """At `micro_batch`, or at the micro-batch asked for when that does not fit."""
    micro_batch: int
    """Sequences at a time on each device: the one asked for, or the largest that fits; 0: none does."""
    largest: int
    """The largest micro-batch that fits."""

    @property
    def fits(self) -> bool:
        return 0 < self.micro_batch <= self.largest


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Settings that would make a run fit."""

    changes: dict[str, str | int]
    """Field of the job to the value it would have."""
    largest: int
    """The micro-batch that then fits."""

    def __str__(self) -> str:
        words = ", ".join(f"{field}: {value}" for field, value in self.changes.items())
        return f"{words} (micro-batch of {self.largest})"


def fit_of(architecture: Architecture, setup: Setup, *, memory_bytes: int, on_cpu: bool) -> Fit:
    """Find the largest micro-batch that fits `memory_bytes` on each device; the one asked for is kept."""
    largest = _largest(architecture, setup, memory_bytes=memory_bytes, on_cpu=on_cpu)
    asked = largest if setup.micro_batch is None else min(setup.micro_batch, setup.per_device)
    memory = memory_of(architecture, setup, micro_batch=max(1, asked), on_cpu=on_cpu)
    return Fit(setup=setup, memory=memory, micro_batch=asked, largest=largest)


def remedies(
    architecture: Architecture, setup: Setup, *, memory_bytes: int, devices: int, on_cpu: bool
) -> list[Remedy]:
    """Ways to make it fit, the gentlest first: each is one more change than the one before, until one is enough.

    `devices`: how many there are to ask for.
    """
    found = []
    for changed, fields in _gentler(setup, devices=devices, on_cpu=on_cpu):
        largest = _largest(architecture, changed, memory_bytes=memory_bytes, on_cpu=on_cpu)
        if largest:
            changes = {FIELDS[name]: getattr(changed, name) for name in fields}
            found.append(Remedy(changes=changes, largest=largest))
    return found


def _gentler(setup: Setup, *, devices: int, on_cpu: bool) -> Iterator[tuple[Setup, tuple[str, ...]]]:
    """Changed setups: what costs nothing, then time, then exactness of the optimiser, then hardware."""
    if setup.micro_batch not in (None, 1):
        yield setup.with_(micro_batch=None), ("micro_batch",)
    lighter, fields = setup.with_(micro_batch=None), () if setup.micro_batch is None else ("micro_batch",)
    for name, value in (("checkpointing", "full"), ("optimizer", "adamw_8bit")):
        divided = name == "optimizer" and lighter.strategy == "fsdp"  # 8-bit moments are one device's
        if getattr(lighter, name) != value and not divided:
            lighter, fields = lighter.with_(**{name: value}), (*fields, name)
            yield lighter, fields
    if not on_cpu:
        for count in _more(setup.devices, up_to=devices):
            sharded = setup.with_(micro_batch=None, strategy="fsdp", devices=count, checkpointing="full")
            if setup.optimizer == "adamw_8bit":  # its blocks of 256 values are not divided among devices
                yield sharded.with_(optimizer="adamw"), ("strategy", "devices", "checkpointing", "optimizer")
            else:
                yield sharded, ("strategy", "devices", "checkpointing")


def _more(devices: int, *, up_to: int) -> Iterator[int]:
    """2, 4, 8 ... beyond `devices`."""
    count = 2
    while count <= min(up_to, MOST_DEVICES):
        if count > devices:
            yield count
        count *= 2


def _largest(architecture: Architecture, setup: Setup, *, memory_bytes: int, on_cpu: bool) -> int:
    """By bisection: memory rises with the micro-batch, but for the step where gradients no longer accumulate."""
    room = memory_bytes * HEADROOM

    def fits(micro_batch: int) -> bool:
        return memory_of(architecture, setup, micro_batch=micro_batch, on_cpu=on_cpu).peak <= room

    if fits(setup.per_device):
        return setup.per_device
    low, high = 0, setup.per_device
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
