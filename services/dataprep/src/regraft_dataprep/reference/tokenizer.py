"""The tokenizers of `create-hdf5`, from local files, with the original's EOS and padding ids.

A document's ids are those of its text and one EOS, with nothing before it: no tokenizer's BOS is written.

The trade-off against `regraft_dataprep.tokenize`: a special token spelt out in a story is what the tokenizer file
says it is, because the original's arrays have it so. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from regraft.errors import InvalidInputError, NotFoundError
from regraft_dataprep.reference.options import GEN_B, Options
from regraft_dataprep.tokenize import load_tokenizer

_EOS, _PAD = "<|endoftext|>", "<|padding|>"


@dataclass(frozen=True, slots=True)
class ReferenceTokenizer:
    """Made by `load`."""

    tokenizer: Tokenizer
    eos_id: int
    pad_id: int
    vocab_size: int
    piece_characters: int | None = None
    """Texts are tokenised in pieces of so many characters: other ids at their borders than those of the whole."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, closed by EOS."""
        pieces = [self._pieces(text) for text in texts]
        batch = iter(self.tokenizer.encode_batch_fast(list(chain.from_iterable(pieces)), add_special_tokens=False))
        return [[*chain.from_iterable(next(batch).ids for _ in own), self.eos_id] for own in pieces]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, special tokens spelt out."""
        return self.tokenizer.decode_batch(rows, skip_special_tokens=False)

    def _pieces(self, text: str) -> list[str]:
        size = self.piece_characters or max(len(text), 1)
        return [text[start : start + size] for start in range(0, len(text), size)]


def load(options: Options) -> ReferenceTokenizer:
    """Load what the options name.

    Raises:
        InvalidInputError: a file that is needed is not named or cannot be read, there is no EOS, or an option does not
            go with this tokenizer.
        NotFoundError: a file is missing.
    """
    if options.tokenizer_type == "GPT2Tokenizer":
        tokenizer = _gpt2(_file(options, name="vocab_file"), encoder=_file(options, name="encoder_file"))
    elif options.tokenizer_type == "NeoXTokenizer":
        path = _file(options, name="encoder_file")
        tokenizer = _read(lambda: Tokenizer.from_file(str(path)), path=path)
    else:
        return _hugging_face(options)
    return _with_ids(tokenizer, options=options, eos_id=tokenizer.token_to_id(_EOS))


def _hugging_face(options: Options) -> ReferenceTokenizer:
    if not options.huggingface_tokenizer:
        raise InvalidInputError("name a local directory", field="huggingface_tokenizer", remedy="No hub is asked.")
    loaded = load_tokenizer(options.huggingface_tokenizer)
    path = loaded.path / "tokenizer.json" if loaded.path.is_dir() else loaded.path
    # Read anew: the loader switches special tokens in text off. A pair of GPT-2 files has none.
    tokenizer = _read(lambda: Tokenizer.from_file(str(path)), path=path) if path.is_file() else loaded.tokenizer
    return _with_ids(tokenizer, options=options, eos_id=loaded.eos_id, padding=_named_padding(path.parent))


def _named_padding(folder: Path) -> str:
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("pad_token") if path.is_file() else None
    return str(named["content"] if isinstance(named, dict) else named or _PAD)


def _with_ids(tokenizer: Tokenizer, *, options: Options, eos_id: int | None, padding: str = _PAD) -> ReferenceTokenizer:
    eos = eos_id if options.eos_id is None else options.eos_id
    if eos is None:
        raise InvalidInputError(f"the tokenizer has no {_EOS}", field="eos_id", remedy="Give --eos_id.")
    pad = _pad_id(options, eos_id=eos, own=tokenizer.token_to_id(padding))
    _check_pieces(options, tokenizer=tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    pieces = options.chunk_len_to_split if options.split_text_to_tokenize else None
    return ReferenceTokenizer(tokenizer, eos, pad, size, pieces)


def _pad_id(options: Options, *, eos_id: int, own: int | None) -> int:
    padded_with_eos = options.tokenizer_type == "GPT2Tokenizer" and options.mode == GEN_B
    if padded_with_eos and options.pad_id not in (None, eos_id):
        raise InvalidInputError(
            f"GPT2Tokenizer pads with EOS ({eos_id}), whatever is given",
            field="pad_id",
            value=options.pad_id,
            remedy="Leave it away.",
        )
    if options.pad_id is not None:
        return options.pad_id
    if padded_with_eos or options.eos_id is not None or own is None:  # giving eos_id sets pad_id, too
        return eos_id
    return own


def _check_pieces(options: Options, *, tokenizer: Tokenizer) -> None:
    adds = options.split_text_to_tokenize and tokenizer.num_special_tokens_to_add(False)
    if adds and not options.remove_bos_in_chunks:
        raise InvalidInputError(
            "this tokenizer puts a special token around each piece, and none are written here",
            field="remove_bos_in_chunks",
            value=False,
            remedy="Give --remove_bos_in_chunks True.",
        )


def _gpt2(merges: Path, *, encoder: Path) -> Tokenizer:
    tokenizer = _read(lambda: Tokenizer(models.BPE.from_file(str(encoder), str(merges))), path=encoder)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read(make: Callable[[], Tokenizer], *, path: Path) -> Tokenizer:
    try:
        return make()
    except Exception as error:  # the library raises the bare Exception for whatever it dislikes in a file
        raise InvalidInputError(
            f"the tokenizer cannot be read ({error})",
            field="encoder_file",
            value=str(path),
            remedy="GPT-2: --vocab_file is the merges (.bpe), --encoder_file the id map (.json).",
            reason="tokenizer_unreadable",
        ) from error


def _file(options: Options, *, name: str) -> Path:
    value = getattr(options, name)
    if not value:
        raise InvalidInputError(f"{options.tokenizer_type} needs this file", field=name)
    path = Path(value)
    if not path.is_file():
        raise NotFoundError("there is no such file", field=name, value=value)
    return path
