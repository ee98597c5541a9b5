"""`regraft create-hdf5 preprocessed_text` and `... LMData`: the two generations of one documented step.

Flags are spelt as in the originals, with underscores: switches of `preprocessed_text` stand alone, those of `LMData`
are followed by True or False. An option that is left away has no value here, so that the YAML file and then the
generation's defaults can give one. Flags that belong to what is not offered are hidden, and refused with the reason.

Not for new work: `regraft prepare` loses nothing. What a command needs is imported when it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from regraft_dataprep.reference.options import Mode

Word = Literal["True", "False"]

InputDir = Annotated[str | None, typer.Option("--input_dir", help="Folder of inputs, with its sub-folders.")]
MetadataFiles = Annotated[
    str | None, typer.Option("--metadata_files", help="Lists of inputs, separated by commas. Wins over the folder.")
]
JsonlKey = Annotated[str | None, typer.Option("--jsonl_key", help="Field or column with the text. Default: text.")]
OutputDir = Annotated[str | None, typer.Option("--output_dir", help="Default: ./data_dir/.")]
OutputName = Annotated[str | None, typer.Option("--output_name", help="Start of file names. Default: examples.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Of short_seq_prob; each process adds its number. Default: 0.")
]
Processes = Annotated[
    int | None, typer.Option("--processes", help="The arrays depend on it. 0, the default: one a core.")
]
FilesPerRecord = Annotated[int | None, typer.Option("--files_per_record", help="Examples in a file. Default: 50000.")]
VocabFile = Annotated[str | None, typer.Option("--vocab_file", help="GPT-2: the merges (.bpe).")]
EncoderFile = Annotated[
    str | None, typer.Option("--encoder_file", help="GPT-2: the id map (.json). NeoX: tokenizer.json.")
]
MaxSeqLength = Annotated[
    int | None,
    typer.Option("--max_seq_length", help="Default: 2048; the TRC2 recipe trains on 512: use one value for both."),
]
ShortSeqProb = Annotated[
    float | None, typer.Option("--short_seq_prob", help="Share of examples cut to a random length. Default: 0.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Ours: delete the .h5 files in OUTPUT_DIR.")]

_BATCH_HELP = "Recorded only: writing is always in bulk, the files are the same."
_RESUME_HELP = "Go on with an unfinished run. Takes no path."


def _switch(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", help=text)


def _refused(name: str) -> Any:
    return typer.Option(f"--{name}", hidden=True)


def preprocessed_text(
    tokenizer_type: Annotated[Literal["GPT2Tokenizer", "NeoXTokenizer"], typer.Option("--tokenizer_type")],
    input_dir: InputDir = None,
    metadata_files: MetadataFiles = None,
    jsonl_key: JsonlKey = None,
    output_dir: OutputDir = None,
    output_name: OutputName = None,
    seed: Seed = None,
    processes: Processes = None,
    files_per_record: FilesPerRecord = None,
    vocab_file: VocabFile = None,
    encoder_file: EncoderFile = None,
    max_seq_length: MaxSeqLength = None,
    short_seq_prob: ShortSeqProb = None,
    eos_id: Annotated[int | None, typer.Option("--eos_id", help="Default: 50256, with any tokenizer.")] = None,
    pad_id: Annotated[int | None, typer.Option("--pad_id", help="Default: 50256, with any tokenizer.")] = None,
    use_ftfy: Annotated[bool, _switch("ftfy", "Mend mojibake.")] = False,
    ftfy_normalizer: Annotated[
        Literal["NFC", "None"] | None, typer.Option("--ftfy_normalizer", help="Default: NFC.")
    ] = None,
    wikitext_detokenize: Annotated[
        bool, typer.Option("--wikitext-detokenize", "--wikitext_detokenize", help="Undo WikiText's tokenisation.")
    ] = False,
    write_remainder: Annotated[bool, _switch("write_remainder", "Keep the last file that is not full.")] = False,
    resume_from_checkpoint: Annotated[bool, _switch("resume_from_checkpoint", _RESUME_HELP)] = False,
    display_pbar: Annotated[bool, _switch("display_pbar", "Progress on stderr.")] = False,
    write_in_batch: Annotated[bool, _switch("write_in_batch", _BATCH_HELP)] = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn text into HDF5 files with the arrays of release 1.8's create_hdf5_dataset.py.

    Mended: no question on stdin when OUTPUT_DIR holds .h5 files, but an error unless --resume_from_checkpoint or
    --overwrite; a resumed run gives an undisturbed run's arrays; UTF-8 whatever the locale; what is dropped is said.
    """
    _run("preprocessed_text", given=locals())


def lm_data(
    params: Annotated[
        Path | None, typer.Option("--params", help="YAML with setup, processing, dataset. Flags win over it.")
    ] = None,
    input_dir: InputDir = None,
    metadata_files: MetadataFiles = None,
    jsonl_key: JsonlKey = None,
    output_dir: OutputDir = None,
    output_name: OutputName = None,
    seed: Seed = None,
    processes: Processes = None,
    files_per_record: FilesPerRecord = None,
    tokenizer_type: Annotated[
        Literal["GPT2Tokenizer", "NeoXTokenizer", "HuggingFaceTokenizer"] | None, typer.Option("--tokenizer_type")
    ] = None,
    huggingface_tokenizer: Annotated[
        str | None, typer.Option("--huggingface_tokenizer", help="A local directory; no hub is asked.")
    ] = None,
    vocab_file: VocabFile = None,
    encoder_file: EncoderFile = None,
    max_seq_length: MaxSeqLength = None,
    short_seq_prob: ShortSeqProb = None,
    eos_id: Annotated[
        int | None, typer.Option("--eos_id", help="Default: the tokenizer's. Sets the padding, too.")
    ] = None,
    pad_id: Annotated[
        int | None, typer.Option("--pad_id", help="Default: the tokenizer's. GPT-2 pads with EOS.")
    ] = None,
    use_ftfy: Annotated[Word | None, _switch("use_ftfy", "Mend mojibake. Default: True.")] = None,
    ftfy_normalizer: Annotated[
        Literal["NFC", "NFD", "NFKC", "NFKD", "None"] | None, typer.Option("--ftfy_normalizer", help="Default: NFC.")
    ] = None,
    wikitext_detokenize: Annotated[
        Word | None, _switch("wikitext_detokenize", "Undo WikiText's tokenisation. Default: False.")
    ] = None,
    split_text_to_tokenize: Annotated[
        Word | None, _switch("split_text_to_tokenize", "Tokenise long texts in pieces. Default: False.")
    ] = None,
    chunk_len_to_split: Annotated[
        int | None, typer.Option("--chunk_len_to_split", help="Characters in such a piece. Default: 2000.")
    ] = None,
    remove_bos_in_chunks: Annotated[
        Word | None, _switch("remove_bos_in_chunks", "No BOS before such pieces. Default: False.")
    ] = None,
    pack_sequences: Annotated[
        Word | None, _switch("pack_sequences", "False keeps documents apart. Default: True.")
    ] = None,
    min_sequence_len: Annotated[
        int | None, typer.Option("--min_sequence_len", help="Documents apart: drop shorter rests. Default: 6.")
    ] = None,
    inverted_mask: Annotated[Word | None, _switch("inverted_mask", "Swap 0 and 1. Default: False.")] = None,
    input_ids_dtype: Annotated[str | None, typer.Option("--input_ids_dtype", help="Only int32.")] = None,
    input_mask_dtype: Annotated[str | None, typer.Option("--input_mask_dtype", help="Only int32.")] = None,
    write_remainder: Annotated[
        Word | None, _switch("write_remainder", "Keep the last file that is not full. Default: True.")
    ] = None,
    resume_from_checkpoint: Annotated[Word | None, _switch("resume_from_checkpoint", _RESUME_HELP)] = None,
    display_pbar: Annotated[Word | None, _switch("display_pbar", "Progress on stderr. Default: False.")] = None,
    write_in_batch: Annotated[Word | None, _switch("write_in_batch", _BATCH_HELP)] = None,
    overwrite: Overwrite = False,
    auth_token: Annotated[str | None, _refused("auth_token")] = None,
    module: Annotated[str | None, _refused("module")] = None,
    dataset_processor: Annotated[str | None, _refused("dataset_processor")] = None,
    fim_rate: Annotated[float | None, _refused("fim_rate")] = None,
    spm_rate: Annotated[float | None, _refused("spm_rate")] = None,
    fim_prefix_tok: Annotated[str | None, _refused("fim_prefix_tok")] = None,
    fim_middle_tok: Annotated[str | None, _refused("fim_middle_tok")] = None,
    fim_suffix_tok: Annotated[str | None, _refused("fim_suffix_tok")] = None,
) -> None:
    """Turn text into HDF5 files with the arrays of create_hdf5_dataset.py LMData, of release 1.9 and later.

    Mended: no question on stdin when OUTPUT_DIR holds .h5 files, but an error unless --resume_from_checkpoint True or
    --overwrite; a resumed run gives an undisturbed run's arrays; UTF-8 whatever the locale; what is dropped is said.
    """
    given = locals()
    given.pop("params")
    _run("LMData", given=given, params=params)


def _run(mode: Mode, *, given: dict[str, Any], params: Path | None = None) -> None:
    from regraft_dataprep.reference.create_hdf5 import create_hdf5
    from regraft_dataprep.reference.options import resolve

    set_by_flags = {name: value for name, value in given.items() if value is not None and value is not False}
    result = create_hdf5(resolve(mode, given=set_by_flags, params=params))
    if result.passed_over:
        first, more = result.passed_over[0], len(result.passed_over) - 1
        _remark(f"passed over, as files of a kind that is not read: {first}" + f" and {more:,} more" * bool(more))
    if result.dropped_examples:
        _remark(f"{result.dropped_examples:,} examples of files that were not full are dropped (no --write_remainder)")
    if result.dropped_tokens:
        _remark(f"{result.dropped_tokens:,} tokens are in no example, as in the original")
    counts = {"examples": result.examples, "dropped_examples": result.dropped_examples}
    typer.echo(json.dumps({**counts, "dropped_tokens": result.dropped_tokens, **result.params}, indent=2))


def _remark(text: str) -> None:
    typer.echo(text, err=True)
