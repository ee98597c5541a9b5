"""The two JSON files that describe a dataset to people and to other tools.

`data_params.json` in each split's folder has the sections and key names of the Cerebras Model Zoo's HDF5 tools, which
their readers look into. `corpus_report.json` beside the splits says what became of the corpus. Neither has a path or
a time in it: equal inputs give equal bytes (files are named where a record of theirs is bad, within the corpus).
Not for run provenance, which is the manifest's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.specs.dataset import DatasetSpec
from regraft_dataprep.clean import CLEANING_VERSION
from regraft_dataprep.cleaning import StepCount, name_of
from regraft_dataprep.output import SplitTotals
from regraft_dataprep.sources.base import Scan
from regraft_dataprep.tokenize import TextEncoder

FORMAT_VERSION = 2
"""Version of what a dataset folder holds. Part of the content address."""


def data_params(
    split: str, *, totals: SplitTotals, spec: DatasetSpec, scan: Scan, encoder: TextEncoder
) -> dict[str, Any]:
    """The content of one split's `data_params.json`."""
    return {
        "setup": {
            "source": spec.source,
            "source_sha256": scan.sha256,
            "source_bytes": scan.bytes,
            "format_version": FORMAT_VERSION,
        },
        "processing": _processing(spec, encoder=encoder),
        "dataset": _dataset(split, spec=spec),
        "features": ["input_ids", "attention_mask", "labels"],
        "post-process": {
            "processed_files": totals.documents,
            "successful_files": totals.documents,
            "discarded_files": 0,
            "n_examples": totals.examples,
            "raw_chars_count": totals.characters,
            "raw_bytes_count": totals.bytes,
            "eos_id": encoder.eos_id,
            "pad_id": encoder.eos_id,
            "vocab_size": encoder.vocab_size,
        },
        "h5_dataset_stats": {
            "num_sequences": totals.examples,
            "num_tokens": totals.examples * spec.max_sequence_length,
            "non_pad_tokens": totals.loss_tokens,
            "loss_valid_tokens": totals.loss_tokens,
        },
    }


def corpus_report(
    *,
    totals: dict[str, SplitTotals],
    spec: DatasetSpec,
    scan: Scan,
    held_out: npt.NDArray[np.bool_],
    cleaning: Sequence[StepCount],
) -> dict[str, Any]:
    """The content of `corpus_report.json`."""
    parts = {"train": scan.has_text & ~held_out, "eval": scan.has_text & held_out}
    return {
        "source": spec.source,
        "source_sha256": scan.sha256,
        "source_bytes": scan.bytes,
        "stray_lines_ignored": scan.stray_lines,
        "bad_records": scan.bad.total,
        "bad_records_first": [asdict(record) for record in scan.bad.first],
        "documents_in": scan.stories,
        "documents_out": sum(split.documents for split in totals.values()),
        "documents_dropped_empty": int((~scan.has_text).sum()),
        "cleaning": [asdict(count) for count in cleaning],
        "splits": {name: _split(totals[name], spec=spec, scan=scan, part=part) for name, part in parts.items()},
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Pretty, stable JSON."""
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _processing(spec: DatasetSpec, *, encoder: TextEncoder) -> dict[str, Any]:
    return {
        "tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer_digest": encoder.digest,
        "eos_id": encoder.eos_id,
        "pad_id": encoder.eos_id,
        "max_seq_length": spec.max_sequence_length,
        "short_seq_prob": 0.0,
        "output_name": "examples",
        "files_per_record": spec.examples_per_file,
        "write_in_batch": True,
        "write_remainder": True,
    }


def _dataset(split: str, *, spec: DatasetSpec) -> dict[str, Any]:
    return {
        "split": split,
        "validation_fraction": spec.validation.fraction,
        "validation_order": spec.validation.order,
        "cleaning_version": CLEANING_VERSION,
        "use_ftfy": "fix_text" in spec.cleaning,
        "cleaning": [name_of(step) for step in spec.cleaning],
        "wikitext_detokenize": False,
        "pack_sequences": True,
        "input_ids_dtype": "int32",
        "input_mask_dtype": "int32",
        "inverted_mask": False,
    }


def _split(totals: SplitTotals, *, spec: DatasetSpec, scan: Scan, part: npt.NDArray[np.bool_]) -> dict[str, Any]:
    timestamps = scan.timestamps[part]
    dated = timestamps[~np.isnat(timestamps)]
    return {
        "documents": totals.documents,
        "characters": totals.characters,
        "bytes": totals.bytes,
        "tokens": totals.tokens,
        "loss_tokens": totals.loss_tokens,
        "examples": totals.examples,
        "padding_share": round(1 - totals.loss_tokens / (totals.examples * spec.max_sequence_length), 6),
        **totals.stats,
        "first": str(dated.min()) if len(dated) else None,
        "last": str(dated.max()) if len(dated) else None,
    }
