"""Proof of a conversion: what was written holds every tensor bit for bit, and computes what the source computes.

The first is checked under the names of the source, by way of the mapping back. The second is checked by a decoder on
each side's own tensors (see `paired`), because a wrong order of rows survives the way there and back. Both sides are
read once for the second, and tensors that were seen to be equal on the way are not read again for the first. What the
Hugging Face side computes, `transformers` is asked too, with that side's own config file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from regraft.families import parameter_count
from regraft.keymap import is_ignored, rows
from regraft_worker.conversion.carried import Carried
from regraft_worker.conversion.config_dropout import without_rates
from regraft_worker.conversion.config_files import read_written
from regraft_worker.conversion.in_transformers import NO_ANSWER, SHARE, Files, compare_with_transformers
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import Mapped, cs_to_hf, heads, hf_to_cs, stem, without_prefixes
from regraft_worker.conversion.opened import Opened
from regraft_worker.conversion.paired import batch, logits_of_both
from regraft_worker.conversion.parity import Output, compare_outputs, output_of
from regraft_worker.conversion.roundtrip import check_equal
from regraft_worker.conversion.side import Side
from regraft_worker.conversion.transfer_plan import Plan
from regraft_worker.conversion.verify import check_same_model
from regraft_worker.conversion.writers.base import Tick


class Proof(NamedTuple):
    """Of a conversion that holds."""

    tensors: int
    """Of the source, which came back bit for bit."""
    logits: Mapping[str, object]
    transformers: Mapping[str, object]

    @property
    def said(self) -> str:
        return (
            f"Proven: {self.tensors} tensors came back bit for bit; source and result compute the same logits, "
            f"at most {self.logits['max_abs_difference']:.2g} apart. {self._said_of_transformers}"
        )

    def facts(self, written: Mapping[str, str]) -> dict[str, object]:
        """What is kept beside the result; `written`: sha256 of each tensor's bytes, by its name in the result."""
        return {
            "format_version": 1,
            "verified": True,
            "tensors": {
                "compared": "every tensor of the source, and what was read back under the source's names, bit for bit",
                "count": self.tensors,
                "sha256": dict(sorted(written.items())),
            },
            "logits": dict(self.logits),
            "transformers": dict(self.transformers),
        }

    @property
    def _said_of_transformers(self) -> str:
        if "not_compared" in self.transformers:
            why = str(self.transformers["not_compared"])
            return f"transformers {why}." if why.startswith(NO_ANSWER) else f"transformers was not asked: {why}."
        return f"transformers computes them too, at most {self.transformers['max_abs_difference']:.2g} apart."


class Written(NamedTuple):
    """A result before it has its name."""

    checkpoint: Opened
    config: Path


def prove_transfer(
    plan: Plan, mapped: Mapped, state: Carried, written: Written, tick: Tick, *, transformers_share: float = SHARE
) -> Proof:
    """That source and result are the same model. `transformers_share`: see `compare_with_transformers`.

    Raises:
        InvalidDataError: a tensor came back with other values, a value is not finite, the logits differ, or the config
            that was written is of another model.
    """
    result, architecture = written.checkpoint, plan.config.architecture
    said = read_written(written.config, family=plan.family, target=plan.target)
    check_same_model(without_rates(architecture), without_rates(said))
    given = _given(plan, mapped, state)
    known = {name: lazy for name, lazy in plan.opened.model.items() if name not in mapped.dropped}
    source = _side(plan, known, is_cs=plan.source.is_cs, mapped=mapped)
    made = _side(plan, result.model, is_cs=plan.target.is_cs, mapped=mapped)
    # HDF5's chunks are unpacked in the order of the rows; several threads would unpack them several times.
    threads = 1 if plan.opened.encoding.startswith("hdf5") else 0
    ids, logits, compared = logits_of_both(source, made, tick, threads=threads)
    check_equal(given, _found(plan, result), tick, compared=compared)
    positions = batch(architecture)[1]
    both = [output_of(ids, side, positions) for side in (logits[:1], logits[-1:])]
    facts = compare_outputs(*both)
    asked = _ask_transformers(plan, mapped, written, both[plan.source.is_cs], tick, share=transformers_share)
    return Proof(len(given), facts, asked)


def _ask_transformers(
    plan: Plan, mapped: Mapped, written: Written, output: Output, tick: Tick, *, share: float
) -> dict[str, object]:
    if plan.source.is_cs and plan.target.is_cs:
        return {"not_compared": "neither side is a Hugging Face checkpoint"}
    if plan.headless:
        return {"not_compared": "a model without its head computes no logits"}
    opened = written.checkpoint if plan.source.is_cs else plan.opened
    config = written.config if plan.source.is_cs else plan.given_config
    buffers = [name for name in opened.model if is_ignored(plan.family, name)]
    model: Files | Path = Files(opened.path, config, plan.family.architectures[0], (*buffers, *mapped.dropped))
    if plan.source.is_cs and opened.path.is_dir() and opened.encoding == "safetensors" and not buffers:
        model = opened.path  # which it loads as users will
    parameters = parameter_count(plan.family, plan.config.architecture)
    return compare_with_transformers(model, output, parameters=parameters, share=share, check=lambda: tick(0))


def _side(plan: Plan, tensors: Mapping[str, Lazy], *, is_cs: bool, mapped: Mapped) -> Side:
    family, architecture = plan.family, plan.config.architecture
    if is_cs:
        tensors = without_prefixes(tensors)
    elif plan.headless:
        # The head is made, or left out, on the way: both sides compute with the one that Cerebras has.
        cs = without_prefixes(plan.opened.model) if plan.source.is_cs else {lazy.name: lazy for lazy in mapped.tensors}
        made = {row.hf: cs[row.cs[0]] for row in heads(family, architecture) if row.cs[0] in cs}
        tensors = {stem(family) + name: lazy for name, lazy in tensors.items()} | made
    return Side(family=family, architecture=architecture, naming="cs" if is_cs else "hf", tensors=tensors)


def _given(plan: Plan, mapped: Mapped, state: Carried) -> dict[str, Lazy]:
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


def _found(plan: Plan, result: Opened) -> dict[str, Lazy]:
    """What was written, under the names of the source."""
    family, architecture, model = plan.family, plan.config.architecture, result.model
    if plan.source.is_cs and plan.target.is_cs:
        return {**without_prefixes(model), **result.tensors}
    back = (hf_to_cs if plan.source.is_cs else cs_to_hf)(family, architecture, model, headless=plan.headless)
    found = {lazy.name: lazy for lazy in back.tensors}
    return found | {name: found[of] for name, of in back.aliases.items()}
