"""A family without its language-model head: what Hugging Face saves of `GPTJModel` instead of `GPTJForCausalLM`.

Its Hugging Face names have no prefix, and no head. A Cerebras checkpoint always has one, so converting to Cerebras
makes a head (`regraft_worker.conversion.buffers`) and converting back leaves it out. When not to use it: for training,
which needs a head that means something.
"""

from __future__ import annotations

from dataclasses import replace

from regraft.families.base import Family

_SUFFIX = "-headless"


def headless(family: Family) -> Family:
    """The variant of `family`."""
    prefix = family.tensors[0].hf.partition(".")[0] + "."
    kept = [tensor for tensor in family.tensors if not tensor.own[0].startswith("head.")]
    return replace(
        family,
        name=family.name + _SUFFIX,
        headless_of=family.name,
        architectures=tuple(name.removesuffix("ForCausalLM") + "Model" for name in family.architectures),
        tensors=tuple(replace(tensor, hf=tensor.hf.removeprefix(prefix)) for tensor in kept),
        ignored_hf=tuple(pattern.removeprefix(prefix.replace(".", r"\.")) for pattern in family.ignored_hf),
    )
