"""`regraft trc2 clean`, `regraft trc2 split` and `regraft create-hdf5`: drop-in commands for documented steps.

Flags are spelt as in the original, with underscores. The trade-off: switches that one generation has bare
(`--write_remainder`) and the other with a word (`--write_remainder True`) are read as bare here, and the words are
then given back to them in order. Not for new work: `regraft prepare` does all three steps at once and loses nothing.
Results go to stdout as JSON, remarks to stderr. What a command needs is imported when it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from regraft.errors import InvalidInputError

_GEN_A = "preprocessed_text"


def trc2_clean(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The raw TRC2 file.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The cleaned file; replaced when it exists.")],
) -> None:
    """Clean a raw TRC2 file: the six documented sed passes and iconv, byte for byte, in one go.

    Different from them: one pass without intermediate files, whatever the locale, and OUT appears only when whole.
    """
    from regraft_dataprep.reference.trc2 import clean_file

    _show({"output": str(output), "lines": clean_file(source, output=output)})


def trc2_split(
    input_file: Annotated[Path, typer.Option("--input_file", help="The cleaned text file.")],
    out_dir: Annotated[Path, typer.Option("--out_dir", help="Output root; it may exist.")],
    buffer_len: Annotated[int, typer.Option("--buffer_len", help="Lines in a shard.")] = 10_000,
    val_split_ratio: Annotated[float, typer.Option("--val_split_ratio", help="Share of shards, the last ones.")] = 0.1,
    reference: Annotated[
        bool, typer.Option("--reference", help="Imitate the original: bare shard names, last shard lost.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the shards of an earlier run.")] = False,
) -> None:
    """Split a cleaned file into shards, and list them in train_meta.txt and val_meta.txt.

    Mended: the last shard is kept and small inputs give one; OUT_DIR may exist; shards are named .txt, so that
    create-hdf5 finds them; text is UTF-8 whatever the locale; the file is streamed, not held in memory.
    """
    from regraft_dataprep.reference.trc2 import split_file

    result = split_file(
        input_file,
        out_dir=out_dir,
        buffer_len=buffer_len,
        val_split_ratio=val_split_ratio,
        reference=reference,
        overwrite=overwrite,
    )
    if result.lines_dropped:
        _remark(f"{result.lines_dropped:,} of {result.lines:,} lines are in no shard, as in the original")
    if not result.validation:
        _remark("no shard for validation: take a smaller --buffer_len or a larger --val_split_ratio")
    counts = {"train": len(result.train), "validation": len(result.validation)}
    _show({"out_dir": str(out_dir), "shards": counts, "lines": result.lines, "lines_dropped": result.lines_dropped})


def _noted(context: typer.Context, param: typer.CallbackParam, value: bool | None) -> bool | None:
    if value and not context.resilient_parsing:
        context.meta.setdefault("switches", []).append(param.name)  # callbacks run in the command line's order
    return value


def create_hdf5(
    context: typer.Context,
    mode: Annotated[str, typer.Argument(help="preprocessed_text (release 1.8) or LMData (1.9 and later).")],
    words: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    params: Annotated[
        Path | None, typer.Option("--params", help="LMData: YAML with setup, processing, dataset. Flags win over it.")
    ] = None,
    input_dir: Annotated[
        str | None, typer.Option("--input_dir", help="Folder of inputs, with its sub-folders.")
    ] = None,
    metadata_files: Annotated[
        str | None, typer.Option("--metadata_files", help="Lists of inputs, separated by commas. Wins over the folder.")
    ] = None,
    jsonl_key: Annotated[str | None, typer.Option("--jsonl_key", help="Field with the text. Default: text.")] = None,
    output_dir: Annotated[str | None, typer.Option("--output_dir", help="Default: ./data_dir/.")] = None,
    output_name: Annotated[str | None, typer.Option("--output_name", help="Start of file names: examples.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of short_seq_prob; each process adds its number.")] = None,
    processes: Annotated[int | None, typer.Option("--processes", help="0, the default: one a core.")] = None,
    files_per_record: Annotated[
        int | None, typer.Option("--files_per_record", help="Examples in a file. Default: 50000.")
    ] = None,
    write_in_batch: Annotated[
        bool | None, typer.Option("--write_in_batch", callback=_noted, help="Without effect: writes are always bulk.")
    ] = None,
    write_remainder: Annotated[
        bool | None, typer.Option("--write_remainder", callback=_noted, help="Keep the last file that is not full.")
    ] = None,
    resume_from_checkpoint: Annotated[
        bool | None,
        typer.Option("--resume_from_checkpoint", callback=_noted, help="Go on with an unfinished run. Takes no path."),
    ] = None,
    display_pbar: Annotated[
        bool | None, typer.Option("--display_pbar", callback=_noted, help="A line on stderr for each file.")
    ] = None,
    tokenizer_type: Annotated[
        str | None, typer.Option("--tokenizer_type", help="GPT2Tokenizer, NeoXTokenizer or HuggingFaceTokenizer.")
    ] = None,
    huggingface_tokenizer: Annotated[
        str | None, typer.Option("--huggingface_tokenizer", help="LMData: a local directory; no hub is asked.")
    ] = None,
    vocab_file: Annotated[str | None, typer.Option("--vocab_file", help="GPT-2: the merges (.bpe).")] = None,
    encoder_file: Annotated[
        str | None, typer.Option("--encoder_file", help="GPT-2: the id map (.json). NeoX: tokenizer.json.")
    ] = None,
    max_seq_length: Annotated[
        int | None,
        typer.Option("--max_seq_length", help="Default 2048; the TRC2 recipe trains on 512: use one value for both."),
    ] = None,
    short_seq_prob: Annotated[
        float | None, typer.Option("--short_seq_prob", help="Share of examples cut to a random length. Default: 0.")
    ] = None,
    eos_id: Annotated[int | None, typer.Option("--eos_id", help="preprocessed_text: 50256 unless given.")] = None,
    pad_id: Annotated[int | None, typer.Option("--pad_id", help="preprocessed_text: 50256 unless given.")] = None,
    ftfy: Annotated[bool | None, typer.Option("--ftfy", help="preprocessed_text: mend mojibake.")] = None,
    use_ftfy: Annotated[str | None, typer.Option("--use_ftfy", help="LMData: True (default) or False.")] = None,
    ftfy_normalizer: Annotated[str | None, typer.Option("--ftfy_normalizer", help="NFC (default) or None.")] = None,
    pack_sequences: Annotated[
        str | None, typer.Option("--pack_sequences", help="LMData: True (default) or False, documents apart.")
    ] = None,
    min_sequence_len: Annotated[
        int | None, typer.Option("--min_sequence_len", help="LMData, unpacked: drop shorter rests. Default: 6.")
    ] = None,
    inverted_mask: Annotated[str | None, typer.Option("--inverted_mask", help="LMData: swap 0 and 1.")] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Delete the .h5 files in OUTPUT_DIR.")] = None,
) -> None:
    """Turn text into HDF5 files with the arrays of create_hdf5_dataset.py. LMData switches take True or False.

    Mended: no question on stdin when OUTPUT_DIR holds .h5 files, but an error unless --resume_from_checkpoint or
    --overwrite; a resumed run gives an undisturbed run's arrays; UTF-8 whatever the locale; what is dropped is said.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("context", "mode", "words", "params"):
        given.pop(name, None)
    given |= _words_of(context.meta.get("switches", []), mode=mode, words=words or [])

    from regraft_dataprep.reference.create_hdf5 import create_hdf5 as run
    from regraft_dataprep.reference.options import resolve

    result = run(resolve(mode, given=given, params=params))
    if result.dropped_examples:
        _remark(f"{result.dropped_examples:,} examples of files that were not full are dropped (no --write_remainder)")
    if result.dropped_tokens:
        _remark(f"{result.dropped_tokens:,} tokens are in no example, as in the original")
    _show({"examples": result.examples, "dropped_examples": result.dropped_examples, **result.params})


def _words_of(switches: list[str], *, mode: str, words: list[str]) -> dict[str, str]:
    if mode == _GEN_A and not words:
        return {}
    if mode == _GEN_A or len(words) != len(switches) or not {"True", "False"}.issuperset(words):
        raise InvalidInputError(
            "switches of preprocessed_text stand alone, each one of LMData is followed by True or False",
            value=" ".join([*(f"--{name}" for name in switches), *words]),
        )
    return dict(zip(switches, words, strict=True))


def _remark(text: str) -> None:
    typer.echo(text, err=True)


def _show(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))
