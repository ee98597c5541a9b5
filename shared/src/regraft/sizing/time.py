"""How long a training step takes: FLOPs over what the device reaches, or over what finished runs have reached.

Calibrated figures are a range; measured ones narrow it to what was seen. Not in it: evaluation, saving, start-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from regraft.families import Architecture
from regraft.sizing.counts import counts_of, flops_per_token
from regraft.sizing.devices import Device
from regraft.sizing.setup import Precision, Setup

SIMILAR = 2.0
"""Runs whose parameters and sequence lengths are within this factor are taken for a guide."""
SPREAD = 0.15
"""Least uncertainty of a rate that was measured, on other runs and perhaps another machine of the kind."""
SCALING = 0.9
"""Share of many devices' rate that is left after they have talked to each other, within one machine. An assumption."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A training that was measured."""

    target: str
    devices: int
    precision: Precision
    parameters: int
    length: int
    """Tokens in a sequence."""
    tokens_per_second: float
    """Over all devices."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Tokens per second over all devices."""

    low: float
    likely: float
    high: float
    basis: str
    """What it rests on, for people."""


def pace_of(
    architecture: Architecture,
    setup: Setup,
    *,
    target: str,
    device: Device | None,
    cores: int,
    history: Sequence[Finished],
) -> Pace | None:
    """From runs of similar shape if there are any, else from the table.

    None: the device is not in the table, or has no such precision.
    """
    measured = measured_pace(architecture, setup, target=target, history=history)
    if measured is not None or device is None:
        return measured
    return calibrated_pace(architecture, setup, device=device, cores=cores)


def measured_pace(architecture: Architecture, setup: Setup, *, target: str, history: Sequence[Finished]) -> Pace | None:
    """The median over runs on the same kind and number of devices, each scaled by its parameters; None: there are none.

    Finished runs are known by their parameters only, so a run counts as 6 FLOPs per parameter and token here.
    """
    parameters = counts_of(architecture).total
    rates = [
        run.tokens_per_second * run.parameters / parameters
        for run in history
        if (run.target, run.devices, run.precision) == (target, setup.devices, setup.precision)
        and _similar(run.parameters, parameters)
        and _similar(run.length, setup.length)
        and run.tokens_per_second > 0
    ]
    if not rates:
        return None
    middle = median(rates)
    return Pace(
        low=min(*rates, middle * (1 - SPREAD)),
        likely=middle,
        high=max(*rates, middle * (1 + SPREAD)),
        basis=f"{len(rates)} finished run(s) of similar shape",
    )


def calibrated_pace(architecture: Architecture, setup: Setup, *, device: Device, cores: int) -> Pace | None:
    """From the table of devices; `cores` is how many units of the row there are in a device."""
    peak = device.peak.get(setup.precision)
    if peak is None:
        return None
    flops = flops_per_token(architecture, length=setup.length, recompute=setup.checkpointing == "full")
    units = cores * setup.devices * (SCALING if setup.devices > 1 else 1.0)
    low, likely, high = (
        _with_update(architecture, setup, peak * share * units / flops, device=device) for share in device.efficiency
    )
    return Pace(low=low, likely=likely, high=high, basis=f"calibration table, {device.name}: {device.source}")


def _with_update(architecture: Architecture, setup: Setup, rate: float, *, device: Device) -> float:
    """Tokens per second once each optimiser step moves weights, gradients and moments through memory."""
    moved = counts_of(architecture).total * (30 if setup.optimizer != "adamw_8bit" else 20)
    shards = setup.devices if setup.strategy == "fsdp" else 1
    tokens = setup.batch_size * setup.length
    return tokens / (tokens / rate + moved / shards / device.bandwidth)


def _similar(one: float, other: float) -> bool:
    return one <= SIMILAR * other and other <= SIMILAR * one
