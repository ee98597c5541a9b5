"""A planned conversion made: written into a work folder, proven there, and moved to its places.

A run that was cut short is taken up again by the same command on the same files: what is whole and has the digests it
was written with is kept, and proven again with the rest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import NamedTuple

from regraft_worker.conversion.carried import Carried
from regraft_worker.conversion.formats import Outputs
from regraft_worker.conversion.mapping import Mapped
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.conversion.parted import write_text
from regraft_worker.conversion.resumable import Work, resumable
from regraft_worker.conversion.transfer_plan import Plan, prefix
from regraft_worker.conversion.transfer_proof import Written, prove_transfer
from regraft_worker.conversion.transfer_writing import write_cs, write_hf_folder, write_once, write_one_hf
from regraft_worker.conversion.writers.base import Tick

_FORMAT = "regraft transfer 3"
"""Part of what a run is known by: a change of what is written is a change of this."""


class Made(NamedTuple):
    """How it is known to be right, and what an earlier run had done of it."""

    proof: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Making:
    """A planned conversion and where it goes."""

    plan: Plan
    mapped: Mapped
    state: Carried
    outputs: Outputs
    requested: bool
    """HDF5 for a Cerebras release, safetensors for Hugging Face."""
    shard_bytes: int
    overwrite: bool
    transformers_share: float

    @property
    def identity(self) -> str:
        """The same when the same inputs are converted with the same options."""
        plan, config = self.plan, self.plan.config
        stats = [(str(path.resolve()), path.stat()) for path in plan.opened.files]
        files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        options = [plan.source.name, plan.target.name, plan.drop, self.requested, self.shard_bytes]
        options.append(bool(self.transformers_share))  # or a proof without its opinion would be taken for one with it
        asked = [_FORMAT, files, config.text, config.family.name, repr(config.architecture), options]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def make(making: Making, tick: Tick) -> Made:
    """Write what is missing, prove all of it, and give the outputs their names.

    Raises:
        InvalidDataError: the source is damaged or what was written is not what it should be; nothing is kept.
        ConflictError: an output is there already, or being made by another process.
    """
    outputs = making.outputs
    name = outputs.checkpoint.name
    names = [name] if outputs.is_folder else [outputs.config.name, outputs.verification.name, name]
    with resumable(
        outputs.checkpoint.parent,
        *names,
        identity=making.identity,
        files_in=name if outputs.is_folder else "",
        overwrite=making.overwrite,
    ) as work:
        proof, note = work.proof, "went on from an earlier run, which had written and proven everything"
        if not proof:
            _write(making, work, tick)
            note = _kept(work)
            proof = _prove(making, work, tick)
            work.prove(proof)
        work.publish()
    return Made(proof, note)


def _write(making: Making, work: Work, tick: Tick) -> None:
    plan, mapped, outputs, finished = making.plan, making.mapped, making.outputs, work.finished
    path, config = work.folder / outputs.checkpoint.name, work.folder / outputs.config.name
    if outputs.is_folder:
        config = path / outputs.config.name
        write_hf_folder(
            path,
            mapped,
            shard_bytes=making.shard_bytes,
            safetensors=making.requested,
            finished=finished,
            tick=tick,
        )
    elif plan.target.is_cs:
        before = prefix(plan)
        write_once(
            path,
            lambda part, journal: write_cs(
                part,
                mapped,
                making.state,
                target=plan.target,
                prefix=before,
                h5=making.requested,
                journal=journal,
                tick=tick,
            ),
            finished=finished,
        )
    else:
        write_once(
            path,
            lambda part, journal: write_one_hf(part, mapped, safetensors=making.requested, journal=journal, tick=tick),
            finished=finished,
        )
    write_text(config, plan.config.text)


def _prove(making: Making, work: Work, tick: Tick) -> str:
    outputs = making.outputs
    with open_checkpoint(work.folder / outputs.checkpoint.name) as result:
        written = Written(result, work.folder / outputs.config.relative_to(outputs.checkpoint.parent))
        proof = prove_transfer(
            making.plan, making.mapped, making.state, written, tick, transformers_share=making.transformers_share
        )
    digests = {name: digest for found in work.finished.digests.values() for name, digest in found.items()}
    path = work.folder / outputs.verification.relative_to(outputs.checkpoint.parent)
    write_text(path, json.dumps(proof.facts(digests), indent=2) + "\n")
    return proof.said


def _kept(work: Work) -> str:
    counts = (("file", work.finished.kept), ("tensor", work.finished.kept_tensors))
    said = [
        f"{len(kept)} {what}{'s' * (len(kept) > 1)} ({sum(kept.values()):,} bytes)" for what, kept in counts if kept
    ]
    return f"went on from an earlier run, which had finished {' and '.join(said)}" if said else ""
