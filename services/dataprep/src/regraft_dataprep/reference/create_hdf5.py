"""`create-hdf5`: documents to HDF5 files whose arrays equal those of the original tool.

The inputs are cut into contiguous blocks, one for each process; `process` does a block's work. What the original loses
is lost here, too, and counted: the carry at each process's end, and, without `write_remainder`, the last file that is
not full. A resumed run gives the arrays of an undisturbed one.

The trade-off: equal arrays depend on the number of processes, as in the original. Where they need not be equal,
`regraft prepare` loses nothing and depends on nothing.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError, RegraftError
from regraft_dataprep.reference.documents import list_inputs
from regraft_dataprep.reference.options import GEN_A, Options, dump
from regraft_dataprep.reference.process import Block, run_block
from regraft_dataprep.reference.tokenizer import ReferenceTokenizer, load

_LEFTOVERS = ("checkpoint_*.txt", "resume_*.jsonl", "data_params.json", ".*.part")
_STATISTICS = ("detokenized_bytes", "detokenized_chars", "loss_valid_tokens", "non_pad_tokens")


class ProcessDiedError(RegraftError):
    """A child process ended without an answer."""

    reason = "process_died"


@dataclass(frozen=True, slots=True)
class Result:
    """`params` is what `data_params.json` holds; the rest is what the original does not say."""

    params: dict[str, Any]
    examples: int
    dropped_examples: int
    """Of files that were not full, without `write_remainder`."""
    dropped_tokens: int
    """Tokens in no example: each process's last carry, rests below `min_sequence_len`, cuts of `short_seq_prob`."""
    passed_over: list[Path]
    """Files among the inputs that are of other kinds."""


def create_hdf5(options: Options) -> Result:
    """Run, verify, and write `data_params.json`.

    Raises:
        RegraftError: an option, an input, a tokenizer or the output folder is not as it should be.
    """
    tokenizer = load(options)
    inputs = list_inputs(input_dir=options.input_dir, metadata_files=options.metadata_files)
    blocks = _blocks(options, inputs=inputs.paths)
    folder = _claim_folder(options)
    totals = sum(_run(blocks), Counter())
    _must_have_examples(options, totals=totals)
    params = _params(options, totals=totals, processes=len(blocks), tokenizer=tokenizer)
    _write_json(folder / "data_params.json", content=params)
    dropped = {name: totals[name] for name in ("dropped_examples", "dropped_tokens")}
    return Result(params, examples=totals["num_sequences"], **dropped, passed_over=inputs.passed_over)


def _blocks(options: Options, *, inputs: Sequence[Path]) -> list[Block]:
    processes = min(options.processes or os.cpu_count() or 1, len(inputs))
    size = math.ceil(len(inputs) / processes)
    shares = [list(inputs[start : start + size]) for start in range(0, len(inputs), size)]
    return [Block(options, number, share, len(shares) == 1) for number, share in enumerate(shares)]


def _claim_folder(options: Options) -> Path:
    folder = Path(options.output_dir)
    if options.overwrite and options.resume_from_checkpoint:
        raise InvalidInputError("cannot go with --resume_from_checkpoint", field="overwrite")
    existing = sorted(folder.glob("*.h5"))
    on_record = options.resume_from_checkpoint and any(folder.glob("resume_*.jsonl"))
    if existing and not (options.overwrite or on_record):
        raise ConflictError(
            f"the folder holds {len(existing)} .h5 files" + (" without a record" * options.resume_from_checkpoint),
            field="output_dir",
            value=str(folder),
            remedy="Name another folder, or pass --overwrite to delete them, or --resume_from_checkpoint to go on "
            "with an unfinished run of this command.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume_from_checkpoint:
        for path in [*existing, *chain.from_iterable(folder.glob(pattern) for pattern in _LEFTOVERS)]:
            path.unlink()
    return folder


def _run(blocks: Sequence[Block]) -> list[Counter[str]]:
    if len(blocks) == 1:
        return [run_block(blocks[0])]
    # Not fork: threads of the tokenizer and open HDF5 files do not survive one.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(len(blocks), mp_context=context) as pool:
            return list(pool.map(run_block, blocks))
    except BrokenProcessPool as error:
        raise ProcessDiedError(
            "a process ended without an answer, perhaps killed for want of memory",
            field="processes",
            value=len(blocks),
            remedy="Free memory or take fewer processes; --resume_from_checkpoint goes on with the same number.",
        ) from error


def _must_have_examples(options: Options, *, totals: Counter[str]) -> None:
    if totals["num_sequences"]:
        return
    raise InvalidDataError(
        f"{totals['documents']} documents with {totals['dropped_tokens']} tokens give no example",
        field="max_seq_length",
        value=options.max_seq_length,
        remedy="The last tokens of each process are dropped: take fewer processes, more text, or shorter examples."
        if not totals["dropped_examples"]
        else "Files that are not full are dropped: pass --write_remainder.",
    )


def _params(options: Options, *, totals: Counter[str], processes: int, tokenizer: ReferenceTokenizer) -> dict[str, Any]:
    content = dump(options.model_copy(update={"processes": processes}))
    counts = {
        "discarded_files": totals["discarded"],
        "processed_files": totals["documents"],
        "successful_files": totals["documents"] - totals["discarded"],
        "n_examples": totals["num_sequences"],
    }
    if options.mode == GEN_A:
        return content | counts
    ids = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id, "vocab_size": tokenizer.vocab_size}
    raw = {"raw_chars_count": totals["raw_chars"], "raw_bytes_count": totals["raw_bytes"]}
    statistics = {name: totals[name] for name in (*_STATISTICS, "num_sequences", "num_tokens")}
    return content | {"post-process": counts | ids | raw, "h5_dataset_stats": statistics}


def _write_json(path: Path, *, content: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")
    part.replace(path)
