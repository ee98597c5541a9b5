"""What is to become of what: a conversion whose formats and config are understood, and its tensors under new names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from regraft.families import Family
from regraft.keymap import embedding_row, rows
from regraft_worker.conversion.config_files import ConvertedConfig, trainable
from regraft_worker.conversion.formats import Format
from regraft_worker.conversion.mapping import Mapped, cs_to_hf, hf_to_cs, without_prefixes
from regraft_worker.conversion.opened import Opened


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A conversion whose formats and config are understood."""

    opened: Opened
    source: Format
    target: Format
    given_config: Path
    """The source's."""
    config: ConvertedConfig
    drop: bool

    @property
    def family(self) -> Family:
        """With its head, as the mapping takes it."""
        return trainable(self.config.family)

    @property
    def headless(self) -> bool:
        return bool(self.config.family.headless_of)


def mapped(plan: Plan) -> Mapped:
    """The model's tensors under the names of the target, without wrapper and prefix."""
    family, architecture, tensors = plan.family, plan.config.architecture, plan.opened.model
    if not plan.source.is_cs:
        return hf_to_cs(family, architecture, tensors, headless=plan.headless, drop_unmatched=plan.drop)
    # GPT-NeoX files of every release get the old buffers back, those of GPT-J up to 1.9.
    buffers = plan.source.era == "pickle" or not architecture.rotary_interleaved
    found = cs_to_hf(
        family,
        architecture,
        tensors,
        headless=plan.headless and not plan.target.is_cs,
        drop_unmatched=plan.drop,
        with_buffers=buffers and not plan.target.is_cs,
    )
    return _same_names(plan, found.dropped) if plan.target.is_cs else found


def _same_names(plan: Plan, dropped: list[str]) -> Mapped:
    """From release to release: the names of the table, each tensor once, its other names as aliases."""
    state, architecture = without_prefixes(plan.opened.model), plan.config.architecture
    found = Mapped([], {}, dropped)
    for row in rows(plan.family, architecture):
        first, *others = row.cs
        if row.is_head and architecture.tied_embeddings:
            found.aliases[first] = embedding_row(plan.family).cs[0]
        elif row.stored_twice:
            found.tensors.append(replace(next(state[name] for name in row.cs if name in state), name=first))
            found.aliases.update(dict.fromkeys(others, first))
        else:
            found.tensors.extend(replace(state[name], name=name) for name in row.cs)
    return found


def prefix(plan: Plan) -> str:
    """Of names in a Cerebras file: as a training run has them, else as the release asks for."""
    return "model." if plan.opened.has_optimizer and plan.source.is_cs else plan.target.prefix
