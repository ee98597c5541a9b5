"""Calibration: what each kind of device can do. Data, with its source; a measured run of the same shape replaces it.

Rates are the makers' dense figures (no sparsity), memory is what a program sees of it. `efficiency` is the share of the
rate that training reaches, as (low, likely, high): published model FLOPs utilisation of decoders of 1 to 13 billion
parameters. A row that rests on no measurement of ours says so in `source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from regraft.sizing.setup import Precision

Efficiency = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Device:
    """One card, or one core of a processor."""

    name: str
    memory_bytes: int
    """Of a card; 0 for a processor, whose memory is the machine's."""
    peak: Mapping[Precision, float]
    """FLOP/s by precision; one that is missing is not offered."""
    bandwidth: float
    """Of its memory, bytes/s."""
    efficiency: Efficiency
    source: str
    aliases: tuple[str, ...] = field(default=())
    """Parts of the names that drivers give it, in capitals."""


def _rates(*, fp32: float, half: float | None, fp16: float | None = None) -> Mapping[Precision, float]:
    found: dict[Precision, float] = {"fp32": fp32 * 1e12}
    if half is not None:
        found["bf16"] = half * 1e12
    if half is not None or fp16 is not None:
        found["fp16"] = (fp16 or half or 0.0) * 1e12
    return MappingProxyType(found)


_HOPPER = (0.30, 0.40, 0.47)  # llm-foundry, H100, bf16: 1B 41.8 %, 3B 43.7 %, 7B 46.4 %, 13B 39.8 %; torchtitan 33-39 %
_AMPERE = (0.35, 0.50, 0.64)  # llm-foundry, A100-80: 7B 64.2 %, 13B 59.6 %; a plain DDP loop at 2.8B 44 %
_SMALL = (0.20, 0.35, 0.50)  # no published figure of this kind was found: a guess, and its range says so

DEVICES: tuple[Device, ...] = (
    Device(
        name="H200",
        memory_bytes=150_100_000_000,
        peak=_rates(fp32=66.9, half=989.4),
        bandwidth=4.8e12,
        efficiency=_HOPPER,
        source="NVIDIA H200 SXM datasheet; utilisation of the H100",
        aliases=("H200",),
    ),
    Device(
        name="H100",
        memory_bytes=85_000_000_000,
        peak=_rates(fp32=66.9, half=989.4),
        bandwidth=3.35e12,
        efficiency=_HOPPER,
        source="NVIDIA H100 SXM datasheet; llm-foundry and torchtitan benchmarks",
        aliases=("H100",),
    ),
    Device(
        name="A100-80",
        memory_bytes=85_000_000_000,
        peak=_rates(fp32=19.5, half=312.0),
        bandwidth=2.04e12,
        efficiency=_AMPERE,
        source="NVIDIA A100 datasheet; llm-foundry benchmarks",
        aliases=("A100-SXM4-80GB", "A100 80GB"),
    ),
    Device(
        name="A100-40",
        memory_bytes=42_300_000_000,
        peak=_rates(fp32=19.5, half=312.0),
        bandwidth=1.555e12,
        efficiency=_AMPERE,
        source="NVIDIA A100 datasheet; utilisation of the 80 GB card",
        aliases=("A100",),
    ),
    Device(
        name="L40S",
        memory_bytes=47_700_000_000,
        peak=_rates(fp32=91.6, half=362.0),
        bandwidth=0.864e12,
        efficiency=_SMALL,
        source="NVIDIA L40S datasheet; utilisation not measured",
        aliases=("L40S",),
    ),
    Device(
        name="A10",
        memory_bytes=23_700_000_000,
        peak=_rates(fp32=31.2, half=125.0),
        bandwidth=0.6e12,
        efficiency=_SMALL,
        source="NVIDIA A10 datasheet; utilisation not measured",
        aliases=("A10",),
    ),
    Device(
        name="T4",
        memory_bytes=15_600_000_000,
        peak=_rates(fp32=8.1, half=None, fp16=65.0),
        bandwidth=0.3e12,
        efficiency=_SMALL,
        source="NVIDIA T4 datasheet (it multiplies no bfloat16); utilisation not measured",
        aliases=("T4",),
    ),
)
CPU_CORE = Device(
    name="CPU core",
    memory_bytes=0,
    peak=MappingProxyType({"fp32": 1.06e11, "bf16": 1.6e11}),
    bandwidth=2.0e10,
    efficiency=(0.25, 0.5, 0.8),
    source="a core with AVX-512: products of 2048 x 2048 in fp32 (in bf16 as the shapes of training have them), "
    "benchmarks/sizing.py; older cores are slower",
)


def device_named(name: str) -> Device | None:
    """The row for a name as drivers or people write it (`NVIDIA H100 80GB HBM3`, `h100`); None: there is none."""
    wanted = name.upper()
    for device in DEVICES:
        if device.name == wanted or any(alias in wanted for alias in device.aliases):
            return device
    return None
