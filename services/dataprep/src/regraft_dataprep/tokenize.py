"""Text to token ids, with a Hugging Face `tokenizers` tokenizer from local files.

No special tokens are added. One that is spelt out in a story (`<|endoftext|>`) is encoded as its letters, so that only
the packer's EOS ends a document, unless the dataset asks for it (`special_tokens: recognised`). Truncation and padding
that a tokenizer file asks for are switched off, they would lose text.

What is loaded here defines the ids. Datasets are encoded by `encoders`, which gives the same ids faster, as arrays.

The trade-off: only what the `tokenizers` library itself can load, so no SentencePiece models, no Python tokenizers
and no downloads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from regraft.errors import InvalidInputError
from regraft.specs.dataset import SpecialTokens
from regraft.storage import local_path

FIELD = "dataset.tokenizer"
_DEFAULT_EOS = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A loaded tokenizer. Made by `load_tokenizer`."""

    tokenizer: Tokenizer
    vocab_size: int
    """Largest id + 1: the least number of embedding rows that all ids fit in."""
    eos_id: int
    digest: str
    """sha256 over what determines the ids: the tokenizer's files and the EOS id."""
    path: Path

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, as lists. Uses all cores (`RAYON_NUM_THREADS` or `TOKENIZERS_PARALLELISM` limit that)."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def load_tokenizer(uri: str, *, special_tokens: SpecialTokens = "text") -> TextEncoder:
    """Load from a directory (`tokenizer.json`, else `vocab.json` and `merges.txt`) or from a `tokenizer.json`.

    `special_tokens` in a text are text, or are recognised.

    Raises:
        InvalidInputError: nothing to load there, files that cannot be understood, or no EOS token.
    """
    path = local_path(uri, field=FIELD)
    files = _tokenizer_files(path)
    tokenizer = _load(files)
    folder = files[0].parent
    eos_id = _eos_id(tokenizer, folder)
    if special_tokens == "text":
        _treat_special_tokens_as_text(tokenizer, eos_id=eos_id)
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return TextEncoder(tokenizer, vocab_size, eos_id, _digest(files, eos_id=eos_id, special=special_tokens), path)


def _tokenizer_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "tokenizer.json").is_file():
        return [path / "tokenizer.json"]
    pair = [path / "vocab.json", path / "merges.txt"]
    if all(file.is_file() for file in pair):
        return pair
    raise InvalidInputError(
        "there is no tokenizer here",
        field=FIELD,
        value=str(path),
        remedy="Name a directory with tokenizer.json, or with vocab.json and merges.txt, or a tokenizer.json.",
        reason="tokenizer_not_found",
    )


def _load(files: Sequence[Path]) -> Tokenizer:
    read: Callable[[Sequence[Path]], Tokenizer] = _read_gpt2 if len(files) == 2 else _read_fast
    try:
        tokenizer = read(files)
    except Exception as error:  # the library raises the bare Exception for whatever it dislikes in a file
        raise InvalidInputError(
            f"the tokenizer cannot be read ({error})",
            field=FIELD,
            value=str(files[0]),
            remedy="Save it again with the `tokenizers` or `transformers` library.",
            reason="tokenizer_unreadable",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_fast(files: Sequence[Path]) -> Tokenizer:
    return Tokenizer.from_file(str(files[0]))


def _read_gpt2(files: Sequence[Path]) -> Tokenizer:
    vocab, merges = files
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _treat_special_tokens_as_text(tokenizer: Tokenizer, *, eos_id: int) -> None:
    # The switch concerns tokens that are marked as special. Other added tokens, such as GPT-NeoX's runs of blanks, are
    # ordinary vocabulary; EOS alone must never come out of text, however a file has marked it.
    eos = tokenizer.get_added_tokens_decoder().get(eos_id)
    if eos is not None and not eos.special:
        tokenizer.add_special_tokens([AddedToken(eos.content, special=True)])
    tokenizer.encode_special_tokens = True


def _eos_id(tokenizer: Tokenizer, folder: Path) -> int:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read_json(folder, name).get("eos_token")
        if token is not None:
            return _id_of(tokenizer, token["content"] if isinstance(token, dict) else token, where=folder / name)
    found = _read_json(folder, "config.json").get("eos_token_id")
    found = found[0] if isinstance(found, list) and found else found
    if isinstance(found, int):
        return _known_id(tokenizer, found, where=folder / "config.json")
    return _id_of(tokenizer, _DEFAULT_EOS, where=folder)


def _id_of(tokenizer: Tokenizer, token: str, *, where: Path) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise _no_eos(f"the end-of-text token '{token}' is not in the tokenizer's vocabulary", where=where)
    return found


def _known_id(tokenizer: Tokenizer, token_id: int, *, where: Path) -> int:
    if tokenizer.id_to_token(token_id) is None:
        raise _no_eos(f"eos_token_id {token_id} is not in the tokenizer's vocabulary", where=where)
    return token_id


def _no_eos(message: str, *, where: Path) -> InvalidInputError:
    return InvalidInputError(
        message,
        field=FIELD,
        value=str(where),
        remedy="Set eos_token in tokenizer_config.json beside the tokenizer.",
        reason="tokenizer_without_eos",
    )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(
            f"this file is not JSON ({error})", field=FIELD, value=str(path), remedy="Correct or remove it."
        ) from error
    return content if isinstance(content, dict) else {}


def _digest(files: Sequence[Path], *, eos_id: int, special: SpecialTokens) -> str:
    digest = hashlib.sha256(f"eos {eos_id}{'' if special == 'text' else ' recognised'}".encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"\n{len(files)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
