"""A tiny seeded model folder for trying things out: demos, tests, a first run without a download.

The same arguments give the same bytes. The weights are as untrained as Hugging Face's own; the tokenizer is a
byte-level BPE like GPT-2's, trained on a text file. When not to use it: to start a real training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from regraft.errors import InvalidInputError
from regraft.families import Architecture, Family, expected_tensors, family_named
from regraft_worker.conversion.hf import write_checkpoint
from regraft_worker.conversion.lazy import Lazy, of_tensor

END_OF_TEXT = "<|endoftext|>"
_BYTES = 256  # a byte-level vocabulary has every byte, and the end-of-text token
_NAMES = {"gptj": "gptj", "gptneox": "gpt-neox"}


def write_sample_checkpoint(
    folder: Path,
    *,
    family: Literal["gptj", "gptneox"],
    tokenizer_text: Path | None = None,
    vocab_size: int = 512,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    max_position_embeddings: int = 128,
    seed: int = 0,
    std: float | None = None,
) -> None:
    """Write a Hugging Face model folder.

    Matrices are drawn from N(0, std), norms are 1 and biases 0; `std` is Hugging Face's 0.02 unless given. Without
    `tokenizer_text` no tokenizer is written.

    Raises:
        InvalidInputError: the sizes do not go together, or the text cannot be read.
    """
    _check_sizes(vocab_size=vocab_size, hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads)
    sizes = {
        "vocab_size": vocab_size,
        "hidden": hidden_size,
        "layers": num_layers,
        "heads": num_heads,
        "positions": max_position_embeddings,
    }
    config = _gptj_config(sizes) if family == "gptj" else _gptneox_config(sizes)
    described = family_named(_NAMES[family])
    architecture = described.read_config(config)
    spread = architecture.initializer_range if std is None else std
    write_checkpoint(folder, _weights(described, architecture, seed=seed, std=spread), config=config)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    if tokenizer_text is not None:
        write_tokenizer(folder, tokenizer_text, vocab_size=vocab_size, max_length=max_position_embeddings)


def write_tokenizer(folder: Path, text: Path, *, vocab_size: int, max_length: int) -> None:
    """Train a byte-level BPE on a file and write what `transformers` wants beside a model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(text), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    _write_json(folder / "special_tokens_map.json", tokens)
    _write_json(folder / "tokenizer_config.json", {**settings, "clean_up_tokenization_spaces": False, **tokens})


def _weights(family: Family, architecture: Architecture, *, seed: int, std: float) -> Iterator[Lazy]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in sorted(expected_tensors(family, architecture).items()):
        if len(shape) > 1:
            tensor = torch.empty(shape).normal_(0.0, std, generator=generator)
        else:
            tensor = torch.zeros(shape) if name.endswith(".bias") else torch.ones(shape)
        yield of_tensor(name, tensor)


def _gptj_config(sizes: Mapping[str, int]) -> dict[str, object]:
    return {
        "model_type": "gptj",
        "vocab_size": sizes["vocab_size"],
        "n_positions": sizes["positions"],
        "n_embd": sizes["hidden"],
        "n_layer": sizes["layers"],
        "n_head": sizes["heads"],
        "n_inner": None,
        "rotary_dim": max(2, sizes["hidden"] // sizes["heads"] // 4 * 2),
        "activation_function": "gelu_new",
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        **_common(),
        "layer_norm_epsilon": 1e-05,
    }


def _gptneox_config(sizes: Mapping[str, int]) -> dict[str, object]:
    return {
        "model_type": "gpt_neox",
        "vocab_size": sizes["vocab_size"],
        "max_position_embeddings": sizes["positions"],
        "hidden_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": 4 * sizes["hidden"],
        "rotary_pct": 0.25 if sizes["hidden"] // sizes["heads"] % 8 == 0 else 1.0,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        **_common(),
        "layer_norm_eps": 1e-05,
    }


def _common() -> dict[str, object]:
    return {
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def _check_sizes(*, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int) -> None:
    if vocab_size <= _BYTES:
        raise InvalidInputError(
            "a byte-level vocabulary needs all bytes and an end-of-text token",
            field="vocab_size",
            value=vocab_size,
            remedy=f"Use at least {_BYTES + 1}.",
        )
    if num_layers < 1 or num_heads < 1 or hidden_size < 1 or hidden_size % (2 * num_heads):
        raise InvalidInputError(
            f"{num_heads} heads need a hidden size that is a multiple of {2 * max(num_heads, 1)}",
            field="hidden_size",
            value=hidden_size,
            remedy="Choose another size or number of heads.",
        )


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield from file
    except OSError as error:
        raise InvalidInputError(
            "the text cannot be read", field="tokenizer_text", value=str(path), remedy="Name a readable file."
        ) from error


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
