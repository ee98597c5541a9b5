"""A checkpoint from one format to another: read lazily, mapped, written once, read back, and only then given its name.

Memory is a few blocks whatever the size. The proof is the round trip: what was written is mapped back to the names of
the source and compared with it bit for bit; that reads both once more, which is the price.

When not to use it: inside a job; the stages `convert` and `export` publish artifacts with manifests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from regraft.errors import InterruptedStageError, InvalidInputError
from regraft.families import Family, variant_named
from regraft.keymap import embedding_row, is_ignored, rows
from regraft.ports import Progress
from regraft_worker.conversion.carried import Carried, carried
from regraft_worker.conversion.config_files import ConvertedConfig, convert_config, trainable
from regraft_worker.conversion.formats import AUTO, HF, Format, format_named, output_paths
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import Mapped, cs_to_hf, hf_to_cs, without_prefixes
from regraft_worker.conversion.opened import Opened, open_checkpoint, recognise
from regraft_worker.conversion.parted import parted, write_text
from regraft_worker.conversion.roundtrip import check_equal
from regraft_worker.conversion.transfer_writing import why_not_h5, write_cs, write_hf_folder, write_one_hf
from regraft_worker.conversion.writers.base import Tick


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """What was written, and what the user should know of it."""

    checkpoint: Path
    config: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A conversion whose formats and config are understood."""

    opened: Opened
    source: Format
    target: Format
    config: ConvertedConfig
    drop: bool

    @property
    def family(self) -> Family:
        """With its head, as the mapping takes it."""
        return trainable(self.config.family)

    @property
    def headless(self) -> bool:
        return bool(self.config.family.headless_of)


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
) -> Transferred:
    """Convert a checkpoint and its config; `model` is empty to detect it. `progress` counts bytes.

    Raises:
        InvalidInputError: the formats, the model or the config cannot be converted as asked.
        InvalidDataError: the checkpoint is damaged, unsafe, or not what its config says.
        ConflictError: an output is there already.
        InterruptedStageError: `progress` asked to stop.
    """
    family = variant_named(model) if model else None
    target, note = format_named(tgt_fmt, field="--tgt-fmt")
    requested = export_h5 if target.is_cs else export_safetensors
    with open_checkpoint(source) as opened:
        found = _source_format(opened, src_fmt, target)
        converted = convert_config(config, model=family, source=found, target=target, drop=drop_unmatched_keys)
        plan = _Plan(opened=opened, source=found, target=target, config=converted, drop=drop_unmatched_keys)
        mapped, state = _mapped(plan), carried(opened, source=found, target=target)
        outputs = output_paths(output_dir, source, config, source=found, target=target, h5=requested)
        tick = _ticker(progress, total=2 * sum(lazy.nbytes for lazy in (*mapped.tensors, *state.tensors.values())))
        is_folder = outputs.config.parent == outputs.checkpoint
        names = [outputs.checkpoint.name] if is_folder else [outputs.config.name, outputs.checkpoint.name]
        with parted(output_dir, *names, overwrite=overwrite) as part:
            written = part / outputs.checkpoint.name
            if target.is_cs:
                write_cs(written, mapped, state, target=target, prefix=_prefix(plan), h5=requested, tick=tick)
            elif is_folder:
                write_hf_folder(written, mapped, shard_bytes=hf_shard_size, safetensors=requested, tick=tick)
            else:
                write_one_hf(written, mapped, safetensors=requested, tick=tick)
            write_text(written / "config.json" if is_folder else part / outputs.config.name, converted.text)
            with open_checkpoint(written) as result:
                check_equal(_given(plan, mapped, state), _found(plan, result), tick)
    said = (note, why_not_h5(target) if requested and target.is_cs else "", *converted.notes, *state.notes)
    return Transferred(
        checkpoint=outputs.checkpoint, config=outputs.config, notes=(*filter(None, said), *_dropped(mapped))
    )


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


def _mapped(plan: _Plan) -> Mapped:
    """The model's tensors under the names of the target, without wrapper and prefix."""
    family, architecture, tensors = plan.family, plan.config.architecture, plan.opened.model
    if not plan.source.is_cs:
        return hf_to_cs(family, architecture, tensors, headless=plan.headless, drop_unmatched=plan.drop)
    # GPT-NeoX files of every release get the old buffers back, those of GPT-J up to 1.9.
    buffers = plan.source.era == "pickle" or not architecture.rotary_interleaved
    mapped = cs_to_hf(
        family,
        architecture,
        tensors,
        headless=plan.headless and not plan.target.is_cs,
        drop_unmatched=plan.drop,
        with_buffers=buffers and not plan.target.is_cs,
    )
    return _same_names(plan, mapped.dropped) if plan.target.is_cs else mapped


def _same_names(plan: _Plan, dropped: list[str]) -> Mapped:
    """From release to release: the names of the table, each tensor once, its other names as aliases."""
    state, architecture = without_prefixes(plan.opened.model), plan.config.architecture
    mapped = Mapped([], {}, dropped)
    for row in rows(plan.family, architecture):
        first, *others = row.cs
        if row.is_head and architecture.tied_embeddings:
            mapped.aliases[first] = embedding_row(plan.family).cs[0]
        elif row.stored_twice:
            mapped.tensors.append(replace(next(state[name] for name in row.cs if name in state), name=first))
            mapped.aliases.update(dict.fromkeys(others, first))
        else:
            mapped.tensors.extend(replace(state[name], name=name) for name in row.cs)
    return mapped


def _prefix(plan: _Plan) -> str:
    """Of names in a Cerebras file: as a training run has them, else as the release asks for."""
    return "model." if plan.opened.has_optimizer and plan.source.is_cs else plan.target.prefix


def _given(plan: _Plan, mapped: Mapped, state: Carried) -> dict[str, Lazy]:
    """What must come back: everything but buffers, a tied head that is written once, and what was dropped."""
    model, architecture = plan.opened.model, plan.config.architecture
    if plan.source.is_cs:
        model = without_prefixes(model)
        left = {name for name in model if name.startswith("lm_head.")} if plan.headless else set()
        left = left if not plan.target.is_cs else set()
    else:
        heads = {row.hf for row in rows(plan.family, architecture) if row.is_head and architecture.tied_embeddings}
        left = heads | {name for name in model if is_ignored(plan.config.family, name)}
    return {n: lazy for n, lazy in model.items() if n not in left and n not in mapped.dropped} | state.tensors


def _found(plan: _Plan, result: Opened) -> dict[str, Lazy]:
    """What was written, under the names of the source."""
    family, architecture, model = plan.family, plan.config.architecture, result.model
    if plan.source.is_cs and plan.target.is_cs:
        return {**without_prefixes(model), **result.tensors}
    back = (hf_to_cs if plan.source.is_cs else cs_to_hf)(family, architecture, model, headless=plan.headless)
    found = {lazy.name: lazy for lazy in back.tensors}
    return found | {name: found[of] for name, of in back.aliases.items()}


def _ticker(progress: Progress, *, total: int) -> Tick:
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress.step(min(done, total), {}, total=total)
        if progress.should_stop():
            raise InterruptedStageError("stopped before the conversion was complete; nothing of it is kept")

    return tick


def _dropped(mapped: Mapped) -> list[str]:
    names = ", ".join(mapped.dropped)
    return [f"tensors dropped because the model has none of these names: {names}"] if names else []
