"""How many bytes of text each token stands for, which makes losses of different tokenizers comparable.

Byte-level vocabularies (GPT-2's, and so GPT-J's and GPT-NeoX's) write each byte as one character, so a token's bytes
are the characters of its entry. Special tokens stand for no text: 0 bytes. Where the tokenizer normalises text first,
the bytes are those of the normalised text.

Not for vocabularies of other kinds, whose entries are not bytes: nothing is said about those.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def token_bytes(folder: Path, vocab_size: int) -> NDArray[np.int64] | None:
    """Bytes by token id, shape (vocab_size,), from the folder's `tokenizer.json`; None: there is none of this kind."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        tokenizer = json.loads(file.read_bytes())
    except ValueError:
        return None
    if not isinstance(tokenizer, dict) or not _is_byte_level(tokenizer):
        return None
    lengths = np.zeros(vocab_size, dtype=np.int64)
    for text, number in tokenizer["model"]["vocab"].items():
        if number < vocab_size:
            lengths[number] = len(text)
    for added in tokenizer.get("added_tokens") or ():
        if added["id"] < vocab_size:
            lengths[added["id"]] = 0 if added.get("special") else len(added["content"].encode())
    return lengths


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return isinstance(vocabulary, dict) and "ByteLevel" in _kinds(tokenizer.get("decoder"))


def _kinds(part: Any) -> set[str]:
    """Types in a part of the file, which may be a sequence of parts."""
    if not isinstance(part, dict):
        return set()
    inner = (kind for value in part.values() if isinstance(value, list) for item in value for kind in _kinds(item))
    return {str(part.get("type")), *inner}
