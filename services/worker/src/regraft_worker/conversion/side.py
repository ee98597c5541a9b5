"""A model as one side of a conversion has it: its tensors in one naming, seen in the other one or by the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from regraft.families import Architecture, Family
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import Mapped, cs_to_hf, hf_to_cs
from regraft_worker.conversion.own import cs_architecture, own_from_cs, own_from_hf

Naming = Literal["hf", "cs"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """Tensors that are understood: all of the model, none besides."""

    family: Family
    architecture: Architecture
    naming: Naming
    tensors: Mapping[str, Lazy]
    """By name, without prefixes; Cerebras' may be there under two names."""

    @property
    def nbytes(self) -> int:
        return sum(lazy.nbytes for lazy in self.tensors.values())

    def under(self, naming: Naming) -> dict[str, Lazy]:
        """The tensors in a naming, every name that it has for them.

        Raises:
            InvalidDataError: tensors are missing, unknown or misshapen, or copies of one differ.
        """
        if naming == self.naming:
            return dict(self.tensors)
        convert: Callable[..., Mapped] = hf_to_cs if naming == "cs" else cs_to_hf
        mapped = convert(self.family, self.architecture, self.tensors)
        found = {lazy.name: lazy for lazy in mapped.tensors}
        return found | {name: found[of] for name, of in mapped.aliases.items()}

    def own(self) -> tuple[Architecture, dict[str, Lazy]]:
        """A decoder's architecture and its tensors, taken from this side's own naming and not by way of the other."""
        if self.naming == "hf":
            return self.architecture, own_from_hf(self.family, self.architecture, self.tensors)
        return cs_architecture(self.architecture), own_from_cs(self.family, self.architecture, self.tensors)
