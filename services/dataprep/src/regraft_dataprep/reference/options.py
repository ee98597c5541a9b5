"""The options of `create-hdf5`: names, defaults per generation, YAML sections, and the dump in `data_params.json`.

Precedence: command line, then the YAML file, then the generation's defaults. What the original offers and this does
not (other modes' keys, a hub's token, other integer types) is an error that says why, where it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from regraft.errors import InvalidInputError, NotFoundError

Mode = Literal["preprocessed_text", "LMData"]
GEN_A: Mode = "preprocessed_text"
GEN_B: Mode = "LMData"

_DEFAULTS: dict[Mode, dict[str, Any]] = {
    GEN_A: {
        **dict.fromkeys(("write_remainder", "write_in_batch", "use_ftfy"), False),
        **dict.fromkeys(("eos_id", "pad_id"), 50256),
        "min_sequence_len": 0,
    },
    GEN_B: {**dict.fromkeys(("write_remainder", "write_in_batch", "use_ftfy"), True), "min_sequence_len": 6},
}
_SECTIONS = {
    "setup": ("input_dir", "metadata_files", "output_dir", "processes"),
    "processing": (
        *("tokenizer_type", "huggingface_tokenizer", "auth_token", "vocab_file", "encoder_file", "eos_id", "pad_id"),
        *("max_seq_length", "short_seq_prob", "output_name", "files_per_record", "write_in_batch", "write_remainder"),
        *("resume_from_checkpoint", "display_pbar", "seed", "split_text_to_tokenize", "chunk_len_to_split"),
        "remove_bos_in_chunks",
    ),
    "dataset": (
        *("use_ftfy", "ftfy_normalizer", "wikitext_detokenize", "jsonl_key", "pack_sequences", "min_sequence_len"),
        *("input_ids_dtype", "input_mask_dtype", "inverted_mask"),
    ),
}
_FIM = ("fim_rate", "spm_rate", "fim_prefix_tok", "fim_middle_tok", "fim_suffix_tok")
_ALSO_READ = {"setup": ("module", "dataset_processor"), "processing": _FIM, "dataset": ("dataset_processor",)}
_PROCESSOR = "LMDataPreprocessor"
_INT32 = "the files hold int32, readers take nothing else"
_ONLY: dict[str, tuple[object, str]] = {
    "auth_token": (None, "no hub is asked; --huggingface_tokenizer takes a local directory"),
    "module": (None, "it belongs to the mode Customize, which is not offered"),
    "dataset_processor": (_PROCESSOR, "other classes belong to the mode Customize, which is not offered"),
    **dict.fromkeys(_FIM, (None, "it belongs to the mode FIM, which is not offered")),
    **dict.fromkeys(("input_ids_dtype", "input_mask_dtype"), ("int32", _INT32)),
}
"""The one value that a name of the original's may have here, and why."""
# Absent from the original's dump unless they were given.
_DUMPED_IF_SET = frozenset(
    (
        *("input_dir", "metadata_files", "huggingface_tokenizer", "files_per_record", "jsonl_key"),
        *("pack_sequences", "input_ids_dtype", "input_mask_dtype", "inverted_mask"),
    )
)
_GEN_A_DUMP = (
    *("mode", "input_dir", "metadata_files", "jsonl_key", "output_dir", "output_name", "seed", "processes"),
    *("write_remainder", "resume_from_checkpoint", "display_pbar", "files_per_record", "write_in_batch"),
    *("tokenizer_type", "vocab_file", "encoder_file", "max_seq_length", "short_seq_prob", "ftfy_normalizer"),
    *("wikitext_detokenize", "eos_id", "pad_id"),
)


class Options(BaseModel):
    """One run's settings. `overwrite` is ours; all others are the original's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode
    input_dir: str | None = None
    metadata_files: str | None = None
    output_dir: str = "./data_dir/"
    processes: int = Field(0, ge=0)
    tokenizer_type: Literal["GPT2Tokenizer", "NeoXTokenizer", "HuggingFaceTokenizer"]
    huggingface_tokenizer: str | None = None
    auth_token: None = None
    vocab_file: str | None = None
    encoder_file: str | None = None
    eos_id: int | None = Field(None, ge=0)
    pad_id: int | None = Field(None, ge=0)
    max_seq_length: int = Field(2048, ge=3)
    short_seq_prob: float = Field(0.0, ge=0, le=1)
    output_name: str = Field("examples", pattern=r"^[\w.-]+$")
    files_per_record: int = Field(50_000, ge=1)
    write_in_batch: bool
    write_remainder: bool
    resume_from_checkpoint: bool = False
    display_pbar: bool = False
    seed: int = 0
    split_text_to_tokenize: bool = False
    chunk_len_to_split: int = Field(2000, ge=1)
    remove_bos_in_chunks: bool = False
    use_ftfy: bool
    ftfy_normalizer: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = "NFC"
    wikitext_detokenize: bool = False
    jsonl_key: str = "text"
    pack_sequences: bool = True
    min_sequence_len: int = Field(ge=0)
    input_ids_dtype: Literal["int32"] = "int32"
    input_mask_dtype: Literal["int32"] = "int32"
    inverted_mask: bool = False
    overwrite: bool = False

    @field_validator("ftfy_normalizer", mode="before")
    @classmethod
    def _no_normalizer(cls, value: object) -> object:
        return None if value == "None" else value


def resolve(mode: Mode, *, given: Mapping[str, Any], params: Path | None = None) -> Options:
    """Options from the command line (`given`), a YAML file and the generation's defaults.

    Raises:
        InvalidInputError: a value that is not allowed, or a name that is not offered.
        NotFoundError: no such YAML file.
    """
    values = {**_DEFAULTS[mode], **(_from_yaml(params) if params else {}), **given}
    for name, (only, why) in _ONLY.items():
        if values.get(name) not in (None, only):
            raise InvalidInputError(why, field=name, value=values[name], remedy="Leave it away.")
    for name in _ONLY.keys() - Options.model_fields.keys():
        values.pop(name, None)
    try:
        return Options.model_validate({**values, "mode": mode})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(
            first["msg"], field=".".join(map(str, first["loc"][:1])), value=first.get("input")
        ) from error


def dump(options: Options) -> dict[str, Any]:
    """The options as the original's `data_params.json` has them: flat in generation A, in sections in B."""
    values = options.model_dump(mode="json")
    if options.mode == GEN_A:
        return {name: values[name] for name in _GEN_A_DUMP} | {"ftfy": options.use_ftfy}
    shown = options.model_fields_set | (values.keys() - _DUMPED_IF_SET)
    sections = {
        section: {name: values[name] for name in names if name in shown} for section, names in _SECTIONS.items()
    }
    return sections | {"setup": sections["setup"] | {"dataset_processor": _PROCESSOR}}


def _from_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError("there is no such file", field="params", value=str(path))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"this is no YAML ({error})", field="params", value=str(path)) from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"expected the sections {', '.join(_SECTIONS)}", field="params", value=str(path))
    return {name: value for section, keys in content.items() for name, value in _section(section, keys=keys).items()}


def _section(section: str, *, keys: object) -> dict[str, Any]:
    if section not in _SECTIONS:
        raise InvalidInputError(f"the sections are {', '.join(_SECTIONS)}", field="params", value=section)
    if keys is not None and not isinstance(keys, dict):
        raise InvalidInputError("expected keys and values", field=f"params.{section}", value=keys)
    for name in keys or {}:
        if name not in (*_SECTIONS[section], *_ALSO_READ[section]):
            raise InvalidInputError("there is no such key", field=f"params.{section}", value=name)
    return {name: value for name, value in (keys or {}).items() if value is not None or name == "ftfy_normalizer"}
