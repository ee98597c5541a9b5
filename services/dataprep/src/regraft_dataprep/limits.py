"""What the model to train allows a dataset: token ids below its vocabulary, windows within its positions.

Checked before the corpus is read, because the alternative is an index error hours later on an accelerator. Read from a
Hugging Face `config.json`, or from the YAML beside a Cerebras `.mdl`. The trade-off: of that YAML only two numbers are
looked at; whether it is a model that can be trained is found out when the checkpoint is converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from regraft.checkpoint_files import WEIGHT_SUFFIXES, config_beside, read_config
from regraft.checkpoint_info import read_architecture
from regraft.errors import InvalidDataError, InvalidInputError
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep.tokenize import FIELD, TextEncoder

_CHECKPOINT = "base_checkpoint.uri"


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not known, not checked."""

    vocab_size: int | None = None
    positions: int | None = None


def limits_of(task: PrepareTask) -> Limits:
    """The task's own word on the vocabulary, else the checkpoint's; the positions are the checkpoint's.

    Raises:
        RegraftError: the checkpoint's config is missing, broken, or not that of a model which can be trained.
    """
    if task.checkpoint_uri is None:
        return Limits(task.vocab_size)
    limits = _limits_at(local_path(task.checkpoint_uri, field=_CHECKPOINT))
    return limits if task.vocab_size is None else Limits(task.vocab_size, limits.positions)


def _limits_at(path: Path) -> Limits:
    """`path` is a folder, or names the weights; as in `regraft.checkpoint_files.locate`, which wants weights, too."""
    is_folder = path.is_dir() or not path.name.endswith(WEIGHT_SUFFIXES)
    folder = path if is_folder else path.parent
    if (folder / "config.json").is_file() and (is_folder or path.suffix != ".mdl"):
        _, architecture = read_architecture(read_config(folder, field=_CHECKPOINT))
        return Limits(architecture.vocab_size, architecture.max_position_embeddings)
    models = sorted(folder.glob("*.mdl")) if is_folder else [path]
    if len(models) != 1 or models[0].suffix != ".mdl" or not models[0].is_file():
        return Limits()
    return _limits_in(config_beside(models[0]))


def _limits_in(config: Path) -> Limits:
    """Of the `model` section of a Cerebras YAML, which from release 2.3 on is part of the trainer's."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidDataError(
            f"{config.name} is not valid YAML",
            field=_CHECKPOINT,
            value=str(config),
            remedy="Use the YAML that belongs to this checkpoint.",
            reason="unsupported_config",
        ) from error
    section = _inside(content, "model") or _inside(content, "trainer", "init", "model")
    return Limits(*(_size(_inside(section, key)) for key in ("vocab_size", "max_position_embeddings")))


def _inside(content: object, *keys: str) -> object:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def check_limits(limits: Limits, *, encoder: TextEncoder, max_sequence_length: int) -> None:
    """Raises InvalidInputError when the tokenizer or the window is too large for the model."""
    if limits.vocab_size is not None and encoder.vocab_size > limits.vocab_size:
        raise InvalidInputError(
            f"the tokenizer has {encoder.vocab_size} tokens and the model's embedding {limits.vocab_size} rows",
            field=FIELD,
            value=str(encoder.path),
            remedy="Use the base checkpoint's own tokenizer ('checkpoint'), or a base checkpoint that fits.",
            reason="tokenizer_too_large",
        )
    if limits.positions is not None and max_sequence_length > limits.positions:
        raise InvalidInputError(
            f"the base checkpoint has {limits.positions} positions",
            field="dataset.max_sequence_length",
            value=max_sequence_length,
            remedy=f"Choose at most {limits.positions}.",
            reason="sequence_too_long",
        )
