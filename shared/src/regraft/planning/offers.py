"""Hardware that a job can be planned for: what workers offer, what this machine has, or cards of the table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from regraft.sizing import CPU_CORE, DEVICES, Device, device_named


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Devices of one kind, as one worker has them."""

    kind: str
    devices: int
    memory_bytes: int | None
    """Of one device; None: not known."""
    cores: int = 1
    """Of a processor."""
    device: Device | None
    """Its row of the calibration table."""
    name: str
    bf16: bool = True

    @property
    def on_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def units(self) -> int:
        """How often the table's row is in one device."""
        return self.cores if self.on_cpu else 1


def offers_of(workers: Iterable[Mapping[str, Any]]) -> list[Offer]:
    """From the `offers` of workers' heartbeats; equal ones once."""
    found: list[Offer] = []
    for offers in workers:
        for kind, facts in sorted(offers.get("targets", {}).items()):
            offer = offer_of(kind, facts)
            if offer not in found:
                found.append(offer)
    return found


def offer_of(kind: str, facts: Mapping[str, Any]) -> Offer:
    """From what a target says of itself (`available()`)."""
    name, memory = str(facts.get("name", "")), facts.get("memory_bytes")
    return Offer(
        kind=kind,
        devices=int(facts.get("devices", 1)),
        memory_bytes=int(memory) if memory else None,
        cores=int(facts.get("cores", 1)),
        device=CPU_CORE if kind == "cpu" else device_named(name),
        name=name or kind,
        bf16=bool(facts.get("bf16", True)),
    )


def this_machine() -> Offer:
    """The processor and the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return offer_of("cpu", {"devices": 1, "memory_bytes": memory, "cores": cores, "name": f"{cores} cores"})


def cards(*, devices: int) -> list[Offer]:
    """Every card of the table, so many of each."""
    return [
        Offer(
            kind="gpu",
            devices=devices,
            memory_bytes=device.memory_bytes,
            device=device,
            name=device.name,
            bf16="bf16" in device.peak,
        )
        for device in DEVICES
    ]
