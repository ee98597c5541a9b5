"""The tokenizers of `create-hdf5`, from local files, with the original's EOS and padding ids.

The trade-off against `regraft_dataprep.tokenize`: a special token spelt out in a story is what the tokenizer file
says it is, because the original's arrays have it so. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from regraft.errors import InvalidInputError, NotFoundError
from regraft_dataprep.reference.options import Options
from regraft_dataprep.tokenize import load_tokenizer

_EOS, _PAD = "<|endoftext|>", "<|padding|>"


@dataclass(frozen=True, slots=True)
class ReferenceTokenizer:
    """Made by `load`."""

    tokenizer: Tokenizer
    eos_id: int
    pad_id: int
    vocab_size: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, closed by EOS."""
        batch = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [[*encoding.ids, self.eos_id] for encoding in batch]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, special tokens spelt out."""
        return self.tokenizer.decode_batch(rows, skip_special_tokens=False)


def load(options: Options) -> ReferenceTokenizer:
    """Load what the options name.

    Raises:
        InvalidInputError: a file that is needed is not named or cannot be read, or there is no EOS.
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
    return _with_ids(tokenizer, options=options, eos_id=loaded.eos_id)


def _with_ids(tokenizer: Tokenizer, *, options: Options, eos_id: int | None) -> ReferenceTokenizer:
    eos = eos_id if options.eos_id is None else options.eos_id
    if eos is None:
        raise InvalidInputError(f"the tokenizer has no {_EOS}", field="eos_id", remedy="Give --eos_id.")
    own_pad = tokenizer.token_to_id(_PAD) if options.eos_id is None else None  # giving eos_id sets pad_id, too
    pad = options.pad_id if options.pad_id is not None else eos if own_pad is None else own_pad
    tokenizer.no_truncation()
    tokenizer.no_padding()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return ReferenceTokenizer(tokenizer, eos, pad, size)


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
