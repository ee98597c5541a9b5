"""What the model to train allows a dataset: token ids below its vocabulary, windows within its positions.

Checked before the corpus is read, because the alternative is an index error hours later on an accelerator. The
trade-off: only a Hugging Face `config.json` is understood here; for other formats the bounds are unknown until the
checkpoint is converted, and the trainer checks again.
"""

from __future__ import annotations

from dataclasses import dataclass

from regraft.checkpoint_files import read_config
from regraft.checkpoint_info import read_architecture
from regraft.errors import InvalidInputError
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
        RegraftError: the checkpoint's config.json is not that of a model which can be trained.
    """
    if task.checkpoint_uri is None:
        return Limits(task.vocab_size)
    folder = local_path(task.checkpoint_uri, field=_CHECKPOINT)
    if not (folder / "config.json").is_file():
        return Limits(task.vocab_size)
    _, architecture = read_architecture(read_config(folder, field=_CHECKPOINT))
    vocab_size = architecture.vocab_size if task.vocab_size is None else task.vocab_size
    return Limits(vocab_size, architecture.max_position_embeddings)


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
