"""What a Hugging Face checkpoint holds, found out without reading a weight.

The API asks this when a job arrives, the convert stage asks it again before it starts: the config is understood, the
weight files are all there, and their headers agree with the config in names and shapes. Only the standard library is
used. The price: of a `.bin` checkpoint, whose tensors only torch can list, nothing but the files is checked here
(`tensors` is None) and `check_tensors` is left to the caller.

When not to use it: for Cerebras checkpoints, of which only the files are looked for (`checkpoint_files.locate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.checkpoint_files import Weights, locate, read_json, weights_at
from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family, detect, expected_tensors, parameter_count
from regraft.keymap import embedding_row, is_ignored, rows
from regraft.safetensors_header import TensorEntry, read_header

EXTRA_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
"""Files beside the weights that travel with a model."""
MAX_LAYERS = 1000
_FLOATS = ("F64", "F32", "F16", "BF16")
_SHOWN = 3

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint that can be converted and trained."""

    folder: Path
    family: str
    """Cerebras' name: `gptj`, `gpt-neox`."""
    architecture: Architecture
    config: Mapping[str, object]
    """Its config.json."""
    weights: Weights
    tensors: Shapes | None
    """Name to shape, buffers left out; None for a `.bin` checkpoint, which only torch can list."""
    dtypes: Mapping[str, int]
    """safetensors' name of a dtype to the number of tensors that have it; empty for `.bin`."""
    parameters: int
    files: tuple[str, ...]
    """Names of all files that belong to the model."""
    has_tokenizer: bool


def inspect_checkpoint(path: Path, *, field: str = "base_checkpoint.uri") -> CheckpointInfo:
    """Look into a folder, or a weight file or index with its config beside it; refuse what cannot be trained from.

    Raises:
        InvalidInputError: `field` names no readable folder or file.
        InvalidDataError: it is no usable checkpoint.
    """
    place = locate(path, field=field)
    config = read_json(place.config, field=field)
    family, architecture = read_architecture(config)
    weights = weights_at(place.weights, field=field)
    entries = _entries(weights)
    if entries is not None:
        entries = {name: entry for name, entry in entries.items() if not is_ignored(family, name)}
        check_dtypes({name: entry.dtype for name, entry in entries.items()}, field=field)
        check_tensors(family, architecture, {name: entry.shape for name, entry in entries.items()}, field=field)
    extra = [name for name in EXTRA_FILES if (place.folder / name).is_file()]
    return CheckpointInfo(
        folder=place.folder,
        family=family.name,
        architecture=architecture,
        config=config,
        weights=weights,
        tensors=None if entries is None else {name: entry.shape for name, entry in entries.items()},
        dtypes=Counter(entry.dtype for entry in (entries or {}).values()),
        parameters=parameter_count(family, architecture),
        files=("config.json", *weights.names, *extra),
        has_tokenizer=has_tokenizer(place.folder),
    )


def has_tokenizer(folder: Path) -> bool:
    """True when a tokenizer is there in one file, or in a pair."""
    pair = ("vocab.json", "merges.txt")
    return (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in pair)


def read_architecture(config: Mapping[str, object]) -> tuple[Family, Architecture]:
    """The family and the sizes that a config speaks of.

    Raises:
        InvalidDataError: the config is not of a supported model.
    """
    family = detect(config)
    architecture = family.read_config(config)
    if architecture.num_layers > MAX_LAYERS:
        raise InvalidDataError(
            f"models of more than {MAX_LAYERS} layers are not supported",
            field="config.json: number of layers",
            value=architecture.num_layers,
            remedy="Mend the checkpoint's config.json.",
        )
    return family, architecture


def check_dtypes(dtypes: Mapping[str, str], *, field: str) -> None:
    """Refuse weights that are not plain floating-point numbers (safetensors' names of dtypes)."""
    for name, dtype in sorted(dtypes.items()):
        if dtype not in _FLOATS:
            raise InvalidDataError(
                f"'{name}' is stored as {dtype}; quantised weights cannot be trained",
                field=field,
                value=dtype,
                remedy=f"Use a checkpoint stored as {', '.join(_FLOATS)}.",
                reason="unsupported_dtype",
            )


def check_tensors(family: Family, architecture: Architecture, found: Shapes, *, field: str) -> None:
    """Compare the tensors of a checkpoint (buffers left out) with those its config asks for.

    Raises:
        InvalidDataError: they differ, or the checkpoint has no head.
    """
    expected = expected_tensors(family, architecture)
    allowed = dict(expected)
    if architecture.tied_embeddings:  # a tied head may be in the file or not
        allowed |= {row.hf: expected[embedding_row(family).hf] for row in rows(family, architecture) if row.is_head}
    _check_headed(family, allowed, found, field=field)
    problems = [f"{name}: expected {list(shape)}, not found" for name, shape in expected.items() if name not in found]
    for name, shape in found.items():
        if name not in allowed:
            problems.append(f"{name}: not expected, found {list(shape)}")
        elif shape != allowed[name]:
            problems.append(f"{name}: expected {list(allowed[name])}, found {list(shape)}")
    if problems:
        raise _disagree(problems, field=field)


def _check_headed(family: Family, expected: Shapes, found: Shapes, *, field: str) -> None:
    prefix = embedding_row(family).hf.split(".")[0] + "."
    if any(name.startswith(prefix) for name in found) or not any(prefix + name in expected for name in found):
        return
    raise InvalidDataError(
        f"this is the bare {family.architectures[0].removesuffix('ForCausalLM')} model without its language-model head",
        field=field,
        value=sorted(found)[0],
        remedy=f"Use {family.architectures[0]}, whose tensors begin with '{prefix}'. Or have `regraft convert` with "
        f"--model {family.name}-headless make a .mdl with a new, untrained head, and start from that.",
        reason="headless_checkpoint",
    )


def _disagree(problems: list[str], *, field: str) -> InvalidDataError:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return InvalidDataError(
        f"the weights do not match config.json: {'; '.join(problems[:_SHOWN])}{more}",
        field=field,
        value=len(problems),
        remedy="Use the config.json that was saved with these weights.",
        reason="config_tensors_disagree",
    )


def _entries(weights: Weights) -> dict[str, TensorEntry] | None:
    """Every tensor of the safetensors files, None for `.bin`."""
    if weights.kind == "bin":
        return None
    entries: dict[str, TensorEntry] = {}
    for path in weights.files:
        header = read_header(path)
        for name in header.keys() & entries.keys():
            raise _bad_index(weights, f"'{name}' is in two files")
        entries |= header
        for name, file in weights.weight_map.items():
            if file == path.name and name not in header:
                raise _bad_index(weights, f"'{name}' is not in {file}")
    return entries


def _bad_index(weights: Weights, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"the index does not match the weight files: {what}",
        field=weights.index.name if weights.index else weights.files[0].name,
        value=str(weights.files[0].parent),
        remedy="Use the index that was saved with these files.",
        reason="config_tensors_disagree",
    )
