"""One job on one offer of hardware: whether it fits, how fast it goes, what would make it fit; and the refusal."""

from __future__ import annotations

from collections.abc import Sequence

from regraft import cerebras_limits
from regraft.errors import InvalidInputError
from regraft.families import Architecture
from regraft.planning.answer import MemoryPlan, RemedyPlan, TargetPlan, TimePlan
from regraft.planning.offers import Offer
from regraft.sizing import Finished, Fit, Setup, fit_of, host_snapshot_bytes, memory_of, pace_of, remedies
from regraft.sizing import setup_of_job as _setup_of_job
from regraft.specs import JobSpec

GB = 1e9
_LARGEST_PARTS = 3


def setup_for(spec: JobSpec, architecture: Architecture, offer: Offer | None = None) -> Setup:
    """The job's options; on hardware other than its own with the number of devices that there is."""
    a = architecture
    setup = _setup_of_job(spec, dropout=max(a.embedding_dropout, a.attention_dropout, a.residual_dropout) > 0)
    if offer is None or spec.target.devices <= offer.devices:
        return setup
    strategy = setup.strategy if offer.devices > 1 else "single"
    return setup.with_(devices=offer.devices, strategy=strategy)


def target_plan(
    spec: JobSpec, architecture: Architecture, offer: Offer, *, steps: int | None, history: Sequence[Finished]
) -> TargetPlan:
    """The job on this hardware."""
    setup = setup_for(spec, architecture, offer)
    fit = _fit(architecture, setup, offer)
    shown = None if fit is None else fit.micro_batch or None
    return TargetPlan(
        kind=offer.kind,
        device=offer.name,
        devices=setup.devices,
        strategy=setup.strategy,
        asked=offer.kind == spec.target.kind,
        fits=None if fit is None else fit.fits,
        micro_batch_size=shown if fit is None or fit.fits else None,
        memory=_memory(architecture, setup, offer, fit),
        host_snapshot_bytes=host_snapshot_bytes(architecture),
        time=_time(architecture, setup, offer, steps=steps, history=history),
        remedies=() if fit is None or fit.fits else _remedies(architecture, setup, offer),
    )


def check_options(spec: JobSpec) -> None:
    """Refuse options that no hardware has together.

    Raises:
        InvalidInputError: the batch cannot be divided among the devices, or the optimiser's state cannot, or no
            release of a Cerebras cluster can be told something.
    """
    cerebras_limits.check_job(spec)
    setup = _setup_of_job(spec)
    if setup.batch_size % setup.devices:
        raise InvalidInputError(
            f"{setup.devices} devices cannot share this batch evenly",
            field="training.batch_size",
            value=setup.batch_size,
            remedy=f"Use a multiple of {setup.devices}, or another number of devices.",
        )
    if setup.optimizer == "adamw_8bit" and setup.strategy == "fsdp":
        raise InvalidInputError(
            "8-bit moments are not divided among devices",
            field="training.optimizer.name",
            value=setup.optimizer,
            remedy="Use adamw, or the strategy ddp.",
        )


def check_memory(spec: JobSpec, architecture: Architecture, offers: Sequence[Offer]) -> None:
    """Refuse a job that fits none of its target's devices, all of whose memory is known.

    Raises:
        InvalidInputError: about the setting that is too large, with what would make it fit.
    """
    own = [offer for offer in offers if offer.kind == spec.target.kind and offer.devices >= spec.target.devices]
    if not own or any(offer.memory_bytes is None for offer in own):
        return
    setup = setup_for(spec, architecture)
    roomiest = max(own, key=lambda offer: offer.memory_bytes or 0)
    fit = _fit(architecture, setup, roomiest)
    if fit is None or fit.fits:
        return
    if fit.largest:
        raise InvalidInputError(
            _message(fit, roomiest),
            field="training.micro_batch_size",
            value=setup.micro_batch,
            remedy=f"Use at most {fit.largest}, or null for the largest that fits.",
            reason="does_not_fit",
        )
    raise InvalidInputError(
        _message(fit, roomiest),
        field="target.kind",
        value=spec.target.kind,
        remedy=_remedy(architecture, setup, roomiest),
        reason="does_not_fit",
    )


def _fit(architecture: Architecture, setup: Setup, offer: Offer) -> Fit | None:
    if offer.memory_bytes is None:
        return None
    return fit_of(architecture, setup, memory_bytes=offer.memory_bytes, on_cpu=offer.on_cpu)


def _memory(architecture: Architecture, setup: Setup, offer: Offer, fit: Fit | None) -> MemoryPlan:
    """At the micro-batch that would be used; where the memory is not known, at that asked for, or all at once."""
    if fit is None:
        micro_batch = min(setup.micro_batch or setup.per_device, setup.per_device)
        found = memory_of(architecture, setup, micro_batch=micro_batch, on_cpu=offer.on_cpu)
    else:
        found = fit.memory
    return MemoryPlan(**found.__dict__, available=offer.memory_bytes)


def _time(
    architecture: Architecture, setup: Setup, offer: Offer, *, steps: int | None, history: Sequence[Finished]
) -> TimePlan | None:
    device, cores = offer.device, offer.units
    pace = pace_of(architecture, setup, target=offer.kind, device=device, cores=cores, history=history)
    if pace is None:
        return None
    tokens = setup.batch_size * setup.length

    def seconds(rate: float) -> float | None:
        return None if steps is None else round(steps * tokens / rate, 3)

    return TimePlan(
        tokens_per_second=round(pace.likely, 1),
        step_seconds=round(tokens / pace.likely, 6),
        seconds=seconds(pace.likely),
        seconds_low=seconds(pace.high),
        seconds_high=seconds(pace.low),
        basis=pace.basis,
    )


def _remedies(architecture: Architecture, setup: Setup, offer: Offer) -> tuple[RemedyPlan, ...]:
    assert offer.memory_bytes is not None, "what has no known memory was not found too small"
    found = remedies(architecture, setup, memory_bytes=offer.memory_bytes, devices=offer.devices, on_cpu=offer.on_cpu)
    return tuple(RemedyPlan(changes=remedy.changes, micro_batch_size=remedy.largest) for remedy in found)


def _remedy(architecture: Architecture, setup: Setup, offer: Offer) -> str:
    assert offer.memory_bytes is not None
    found = remedies(architecture, setup, memory_bytes=offer.memory_bytes, devices=offer.devices, on_cpu=offer.on_cpu)
    if not found:
        return "Take a smaller model, or a target with more memory or more devices."
    return f"Set {'; or '.join(map(str, found))}."


def _message(fit: Fit, offer: Offer) -> str:
    """How much is missing, and what takes most of it."""
    parts = {name: value for name, value in fit.memory.__dict__.items() if name != "peak"}
    largest = sorted(parts.items(), key=lambda part: -part[1])[:_LARGEST_PARTS]
    words = ", ".join(f"{name.replace('_', ' ')} {value / GB:.1f}" for name, value in largest)
    assert offer.memory_bytes is not None
    return (
        f"training takes about {fit.memory.peak / GB:.1f} GB on each device ({words} ...), and the largest on offer"
        f" has {offer.memory_bytes / GB:.1f} GB"
    )
