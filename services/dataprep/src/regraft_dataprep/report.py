"""What describes a dataset to people and to other tools: three files, made of what was gathered.

`data_params.json` in each split's folder has the sections and key names of the Cerebras Model Zoo's HDF5 tools, which
their readers look into. `corpus_report.json` beside the splits says what became of the corpus, `corpus_report.html`
shows it. None has a path or a time in it: equal inputs give equal bytes, but for the epochs, which are those of the job
that the dataset was made for (files are named where a record of theirs is bad, within the corpus). Not for run
provenance, which is the manifest's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regraft.ports import Progress
from regraft.specs.dataset import DatasetSpec, PackingSpec, ValidationSpec
from regraft_dataprep.clean import CLEANING_VERSION
from regraft_dataprep.cleaning import dropped_from, name_of
from regraft_dataprep.gathered import BAD_SHOWN, EXAMPLES, Gathered
from regraft_dataprep.report_page import report_page
from regraft_dataprep.sources import reading_in_effect
from regraft_dataprep.stats import SAMPLE_TOKENS, evenly_spaced, languages, length_stats, tokens_per_word
from regraft_dataprep.units import SPLITS
from regraft_dataprep.windows import FEATURES

FORMAT_VERSION = 4
"""Version of what a dataset folder holds. Part of the content address."""


def load_for_reports() -> None:
    """Load what the reports need, which takes half a second: for a thread, while others work."""
    import pyarrow.parquet  # noqa: F401

    languages(["Which language is this text in? It is long enough to be guessed at."])


def effective(spec: DatasetSpec) -> DatasetSpec:
    """With their defaults for options that change nothing beside the others: they are in no address and no report.

    Raises:
        InvalidInputError: there is no such source.
    """
    validation, packing = spec.validation.model_copy(update={"near_duplicates": _sought(spec)}), spec.packing
    if validation.uri is not None:
        validation = ValidationSpec(uri=validation.uri, near_duplicates=validation.near_duplicates)
    if not packing.short_seq_prob:
        packing = packing.model_copy(update={"seed": PackingSpec().seed})
    reading = reading_in_effect(spec.source, spec.reading)
    return spec.model_copy(update={"validation": validation, "packing": packing, "reading": reading})


def _sought(spec: DatasetSpec) -> float | None:
    """`validation.near_duplicates`; one value for all of them that find nothing after `drop_near_duplicates`."""
    asked = spec.validation.near_duplicates
    dropped = dropped_from(spec.cleaning)
    if dropped is None or (asked is not None and asked < dropped):
        return asked
    return max(dropped, ValidationSpec.model_fields["near_duplicates"].default)


def implied_epochs(planned_windows: int | None, train_examples: int) -> float | None:
    """How often a job that reads so many windows reads each training window; None: not known."""
    return None if planned_windows is None else round(planned_windows / train_examples, 4)


def corpus_report(gathered: Gathered, *, planned_windows: int | None = None) -> dict[str, Any]:
    """The content of `corpus_report.json`; `planned_windows` as in the task that makes the dataset."""
    spec, decision = gathered.spec, gathered.decision
    texts = {name: _sample(gathered, name) for name in SPLITS}
    return {
        "source": spec.source,
        "source_sha256": gathered.inventory.sha256,
        "source_bytes": gathered.inventory.bytes,
        "source_files": gathered.inventory.files,
        "stray_lines_ignored": gathered.fact("stray_lines"),
        "bad_records": gathered.fact("bad"),
        "bad_records_first": gathered.first("bad_first", BAD_SHOWN),
        "documents_in": gathered.fact("records") - int(gathered.corpus.follows.sum()),
        "documents_out": sum(split.documents for split in gathered.splits.values()),
        "documents_dropped_empty": gathered.fact("empty"),
        "cleaning": [asdict(count) for count in decision.steps],
        "duplicates": _duplicates(gathered),
        "cleaning_examples": gathered.first("examples", EXAMPLES),
        "languages": languages([text for text, _ in texts["train"]]),
        "held_out_like_trained": decision.moved,
        "overlap": gathered.overlap,
        "epochs": implied_epochs(planned_windows, gathered.splits["train"].windows),
        "splits": {name: _split(gathered, name, texts[name]) for name in SPLITS},
    }


def write_reports(folder: Path, gathered: Gathered, report: Mapping[str, Any]) -> None:
    """All files but the windows and the documents' index, into the folder of a dataset with its splits."""
    for name in SPLITS:
        write_json(folder / name / "data_params.json", data_params(gathered, name, report["splits"][name]))
    write_json(folder / "corpus_report.json", report)
    (folder / "corpus_report.html").write_text(report_page(report), encoding="utf-8")


def announce(gathered: Gathered, report: Mapping[str, Any], progress: Progress) -> None:
    """What somebody who waits should know now."""
    facts = {name: report[name] for name in ("documents_in", "documents_out", "documents_dropped_empty", "duplicates")}
    progress.event("every document is decided about", data=facts)
    if report["stray_lines_ignored"]:
        message = f"{report['stray_lines_ignored']} lines outside of any document are ignored"
        progress.event(message, level="warn", data={"lines": report["stray_lines_ignored"]})
    if report["bad_records"]:
        first = [str(record) for record in gathered.bad_records(BAD_SHOWN)]
        message = f"{report['bad_records']} records cannot be read and are left out"
        progress.event(message, level="warn", data={"records": report["bad_records"], "first": first})
    if gathered.decision.moved:
        message = f"{gathered.decision.moved} documents were to be held out and are like one that is trained on"
        progress.event(message, data={"documents": gathered.decision.moved, "overlap": report["overlap"]})


def data_params(gathered: Gathered, split: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of one split's `data_params.json`; `facts` is its part of the corpus report."""
    spec, encoder, inventory = gathered.spec, gathered.encoder, gathered.inventory
    return {
        "setup": {
            "source": spec.source,
            "source_sha256": inventory.sha256,
            "source_bytes": inventory.bytes,
            "format_version": FORMAT_VERSION,
        },
        "processing": _processing(gathered),
        "dataset": _dataset(gathered, split),
        "features": list(FEATURES if spec.packing.document_boundaries else FEATURES[:3]),
        "post-process": {
            "processed_files": facts["documents"],
            "successful_files": facts["documents"],
            "discarded_files": 0,
            "n_examples": facts["examples"],
            "raw_chars_count": facts["characters"],
            "raw_bytes_count": facts["bytes"],
            "eos_id": encoder.eos_id,
            "pad_id": encoder.eos_id,
            "vocab_size": encoder.vocab_size,
        },
        "h5_dataset_stats": {
            "num_sequences": facts["examples"],
            "num_tokens": facts["examples"] * spec.max_sequence_length,
            "non_pad_tokens": facts["loss_tokens"],
            "loss_valid_tokens": facts["loss_tokens"],
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Pretty, stable JSON."""
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _processing(gathered: Gathered) -> dict[str, Any]:
    spec, encoder = effective(gathered.spec), gathered.encoder
    return {
        "tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer_digest": encoder.digest,
        "eos_id": encoder.eos_id,
        "pad_id": encoder.eos_id,
        "max_seq_length": spec.max_sequence_length,
        "short_seq_prob": spec.packing.short_seq_prob,
        "seed": spec.packing.seed,
        "output_name": "examples",
        "files_per_record": spec.examples_per_file,
        "write_in_batch": True,
        "write_remainder": spec.packing.remainder == "pad",
    }


def _dataset(gathered: Gathered, split: str) -> dict[str, Any]:
    spec = effective(gathered.spec)
    return {
        "split": split,
        "validation_fraction": None if spec.validation.uri else spec.validation.fraction,
        "validation_order": "files" if spec.validation.uri else spec.validation.order,
        "cleaning_version": CLEANING_VERSION,
        "use_ftfy": "fix_text" in spec.cleaning,
        "cleaning": [name_of(step) for step in spec.cleaning],
        "wikitext_detokenize": False,
        "pack_sequences": spec.packing.pack_sequences,
        "use_vsl": spec.packing.document_boundaries,
        "input_ids_dtype": "int32",
        "input_mask_dtype": "int32",
        "inverted_mask": False,
    }


def _split(gathered: Gathered, name: str, sample: list[tuple[str, int]]) -> dict[str, Any]:
    plan, totals = gathered.splits[name], gathered.totals(name)
    windows, length = gathered.windows[name], gathered.spec.max_sequence_length
    labels = windows.pairs
    return {
        "documents": plan.documents,
        "characters": totals["characters"],
        "bytes": totals["bytes"],
        "tokens": plan.tokens,
        "loss_tokens": labels,
        "examples": plan.windows,
        "padding_share": round(1 - labels / (plan.windows * length), 6) if plan.windows else 0.0,
        "tokens_per_word": tokens_per_word(sample),
        **length_stats(gathered.tokens_of(name) - 1),
        "first": totals["first"],
        "last": totals["last"],
    }


def _duplicates(gathered: Gathered) -> dict[str, int]:
    dropped = {count.step: count.documents_in - count.documents_out for count in gathered.decision.steps}
    return {"exact": dropped.get("drop_duplicates", 0), "near": dropped.get("drop_near_duplicates", 0)}


def _sample(gathered: Gathered, split: str) -> list[tuple[str, int]]:
    """Beginnings of some documents, decoded, with their numbers of tokens."""
    return list(gathered.texts(evenly_spaced(gathered.rows(split)), most_tokens=SAMPLE_TOKENS))
