"""A checkpoint from one format to another: read lazily, mapped, written once, proven, and only then given its name.

A run that is cut short is taken up again by the same call (see `transfer_making`).
Memory is a few blocks whatever the size. The proof (see `transfer_proof`) reads source and result once more, which is
the price.

When not to use it: inside a job; the stages `convert` and `export` publish artifacts with manifests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from regraft.errors import InterruptedStageError, InvalidInputError
from regraft.families import variant_named
from regraft.ports import Progress
from regraft_worker.conversion.carried import Carried, carried
from regraft_worker.conversion.config_files import convert_config
from regraft_worker.conversion.formats import AUTO, HF, Format, format_named, output_paths
from regraft_worker.conversion.in_transformers import SHARE
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import Mapped
from regraft_worker.conversion.opened import Opened, open_checkpoint, recognise
from regraft_worker.conversion.transfer_making import Making, make
from regraft_worker.conversion.transfer_plan import Plan, mapped
from regraft_worker.conversion.transfer_writing import why_not_h5
from regraft_worker.conversion.writers.base import Tick


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """What was written, and what the user should know of it."""

    checkpoint: Path
    config: Path
    proof: str
    notes: tuple[str, ...] = ()


def transfer(
    source: Path,
    *,
    config: Path,
    model: str,
    src_fmt: str,
    tgt_fmt: str,
    output_dir: Path,
    drop_unmatched_keys: bool,
    hf_shard_size: int,
    export_safetensors: bool,
    export_h5: bool,
    progress: Progress,
    overwrite: bool = False,
    transformers_share: float = SHARE,
) -> Transferred:
    """Convert a checkpoint and its config; `model` is empty to detect it. `progress` counts bytes.

    `transformers_share`: of the free memory, for its opinion on the Hugging Face side; 0 is not to ask.

    Raises:
        InvalidInputError: the formats, the model or the config cannot be converted as asked.
        InvalidDataError: the checkpoint is damaged, unsafe, or not what its config says.
        ConflictError: an output is there already, or another process is making it.
        InterruptedStageError: `progress` asked to stop.
    """
    family = variant_named(model) if model else None
    target, note = format_named(tgt_fmt, field="--tgt-fmt")
    requested = export_h5 if target.is_cs else export_safetensors
    with open_checkpoint(source) as opened:
        found = _source_format(opened, src_fmt, target)
        converted = convert_config(config, model=family, source=found, target=target, drop=drop_unmatched_keys)
        plan = Plan(
            opened=opened,
            source=found,
            target=target,
            given_config=config,
            config=converted,
            drop=drop_unmatched_keys,
        )
        new, state = mapped(plan), carried(opened, source=found, target=target)
        outputs = output_paths(output_dir, source, config, source=found, target=target, h5=requested)
        making = Making(
            plan=plan,
            mapped=new,
            state=state,
            outputs=outputs,
            requested=requested,
            shard_bytes=hf_shard_size,
            overwrite=overwrite,
            transformers_share=transformers_share,
        )
        made = make(making, _ticker(progress, total=_work(new.tensors, state)))
    h5 = why_not_h5(target) if requested and target.is_cs else ""
    said = filter(None, (note, h5, made.note, *converted.notes, *state.notes, *_dropped(new)))
    return Transferred(checkpoint=outputs.checkpoint, config=outputs.config, proof=made.proof, notes=tuple(said))


def _work(model: list[Lazy], state: Carried) -> int:
    """Bytes that go by: all are written and then compared, most of the model's on their way through the decoder."""
    return sum(2 * lazy.nbytes for lazy in (*model, *state.tensors.values()))


def _source_format(opened: Opened, name: str, target: Format) -> Format:
    """The format of the source, as named or as found; Cerebras names in a Hugging Face file are a mistake."""
    found = opened.format() if name == AUTO else format_named(name, field="--src-fmt")[0]
    naming, _ = recognise(opened.model)
    if naming and (naming == "cs") != found.is_cs:
        raise InvalidInputError(
            f"the tensors of this file have {'Cerebras' if naming == 'cs' else 'Hugging Face'} names",
            field="--src-fmt",
            value=name,
            remedy=f"Use --src-fmt {AUTO if naming == 'cs' else HF.name}.",
            reason="unsupported_format",
        )
    if found == target:
        raise InvalidInputError(
            "source and target are the same format",
            field="--tgt-fmt",
            value=target.name,
            remedy="Choose another one.",
            reason="same_format",
        )
    return found


def _ticker(progress: Progress, *, total: int) -> Tick:
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress.step(min(done, total), {}, total=total)
        if progress.should_stop():
            raise InterruptedStageError("stopped before the conversion was complete")

    return tick


def _dropped(mapped: Mapped) -> list[str]:
    names = ", ".join(mapped.dropped)
    return [f"tensors dropped because the model has none of these names: {names}"] if names else []
