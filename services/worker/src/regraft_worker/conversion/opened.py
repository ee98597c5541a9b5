"""A checkpoint on disk as one set of tensors: a file, the shards of an index, or a folder of either.

What it is (whose names, which family, what else a training run left in it) is told from its names, because a file's
suffix says little and its config may be elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regraft.checkpoint_files import find_weights, weights_at
from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import FAMILIES, HEADLESS, Family
from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.formats import HF, Format, detect_format
from regraft_worker.conversion.lazy import Lazy

Naming = Literal["hf", "cs", ""]
_FIELD = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Its content, while it is open."""

    path: Path
    files: tuple[Path, ...]
    encoding: str
    tensors: Mapping[str, Lazy]
    """Under the names in the file."""
    values: Mapping[str, object]
    aliases: Mapping[str, str]
    """Name to the name of the tensor it shares its values with."""

    @property
    def model(self) -> dict[str, Lazy]:
        """The tensors of the model, under names without wrapper and prefix."""
        return {bare(name): lazy for name, lazy in self.tensors.items() if is_of_model(name)}

    @property
    def model_aliases(self) -> dict[str, str]:
        return {bare(name): bare(target) for name, target in self.aliases.items() if is_of_model(name)}

    @property
    def dtypes(self) -> dict[str, int]:
        """Of the model's tensors, by torch's names."""
        return dict(Counter(str(lazy.dtype).removeprefix("torch.") for lazy in self.model.values()))

    @property
    def has_optimizer(self) -> bool:
        return any(name.startswith("optimizer.") for name in (*self.tensors, *self.values))

    @property
    def global_step(self) -> int | None:
        """Of a training run."""
        if "global_step" in self.tensors:
            return int(self.tensors["global_step"].whole())
        step = self.values.get("global_step")
        return step if isinstance(step, int) else None

    def format(self) -> Format:
        """Hugging Face's, or of which Cerebras release."""
        naming, _ = recognise(self.model)
        return HF if naming == "hf" else detect_format(self.values, self.encoding, stem=self.files[0].stem)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Opened]:
    """Open whatever lies at `path`.

    Raises:
        InvalidInputError: there is nothing.
        InvalidDataError: it holds no checkpoint, or a tensor twice.
    """
    files = _files(path)
    with ExitStack() as stack:
        containers = [stack.enter_context(open_container(file)) for file in files]
        tensors: dict[str, Lazy] = {}
        for container in containers:
            _refuse_twice(path, tensors.keys() & container.tensors.keys())
            tensors |= container.tensors
        yield Opened(
            path=path,
            files=files,
            encoding=containers[0].encoding,
            tensors=tensors,
            values={name: value for container in containers for name, value in container.values.items()},
            aliases={name: target for container in containers for name, target in container.aliases.items()},
        )


def is_of_model(name: str) -> bool:
    """False for what a training run keeps beside the weights."""
    top = name.partition(".")[0]
    return top not in ("optimizer", "lr_scheduler", "schedulers", "dataloader", "grad_scaler", "scaler", "amp") and (
        "." in name and not name.startswith("__")
    )


def bare(name: str) -> str:
    """Without the wrapper `model`, and without the prefix `model.` of a trainer."""
    return name.removeprefix("model.").removeprefix("model.")


def recognise(names: Iterable[str]) -> tuple[Naming, Family | None]:
    """Whose names these are, and of which family; empty and None when of no known model."""
    found = set(names)
    for family in (*FAMILIES, *HEADLESS):
        ignored = [*family.ignored_hf]
        if _all_match(found, [tensor.hf for tensor in family.tensors], ignored, needs=family.tensors[0].hf):
            return "hf", family
    for family in FAMILIES:
        templates = [name for tensor in family.tensors for name in tensor.cs]
        if _all_match(found, templates, [], needs=family.tensors[0].cs[0]):
            return "cs", family
    return "", None


def parameters(opened: Opened) -> int:
    """Number of weights; what is stored under two names counts once, buffers not at all."""
    model, aliases = opened.model, opened.model_aliases
    naming, family = recognise(model)
    if family is None:
        return sum(_count(lazy) for name, lazy in model.items() if name not in aliases)
    if naming == "hf":
        ignored = re.compile("|".join(family.ignored_hf))
        return sum(_count(lazy) for name, lazy in model.items() if name not in aliases and not ignored.fullmatch(name))
    first = {again: tensor.cs[0] for tensor in family.tensors if len(tensor.own) == 1 for again in tensor.cs[1:]}
    once = {first.get(name, name): _count(lazy) for name, lazy in model.items()}
    tied = {name for name, of in aliases.items() if first.get(name, name) != first.get(of, of)}
    return sum(count for name, count in once.items() if name not in tied)


def _count(lazy: Lazy) -> int:
    return lazy.nbytes // lazy.dtype.itemsize


def _all_match(found: set[str], templates: list[str], patterns: list[str], *, needs: str) -> bool:
    known = [*(re.escape(name).replace(r"\{n\}", r"\d+") for name in templates), *patterns]
    either = re.compile("|".join(f"(?:{pattern})" for pattern in known))
    return needs in found and all(either.fullmatch(name) for name in found)


def _files(path: Path) -> tuple[Path, ...]:
    if not path.exists():
        raise InvalidInputError(
            "there is no such file",
            field=_FIELD,
            value=str(path),
            remedy="Name a checkpoint that this machine can see.",
            reason="checkpoint_not_found",
        )
    if path.is_dir():
        models = sorted(path.glob("*.mdl"))
        return (models[0],) if len(models) == 1 else find_weights(path, field=_FIELD).files
    return weights_at(path, field=_FIELD).files if path.name.endswith(".json") else (path,)


def _refuse_twice(path: Path, names: Iterable[str]) -> None:
    for name in sorted(names):
        raise InvalidDataError(
            f"'{name}' is in two files",
            field=_FIELD,
            value=str(path),
            remedy="Use the files of one checkpoint.",
            reason="unsupported_checkpoint",
        )
