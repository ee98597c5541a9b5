"""Regraft's data preparation, as it is called by a stage: on the work of (a), with its defaults, or under a clock."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import clock

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the stage does (`keep_to_one_thread`), before numpy is imported

from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep.resources import Resources
from regraft_dataprep.start import prepare


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    profiled = settings["name"] == "profile"
    watch = clock.Clock()
    if profiled:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        _watch(watch)
    result = prepare(_task(settings), resources=Resources(processes=1 if profiled else None))
    watch.stop()
    Path(settings["target"]).symlink_to(local_path(result.uri))
    tokens = result.train_tokens + result.eval_tokens + 2  # the first token of a split is no label
    print(json.dumps({"tokens": tokens, "parts": dict(watch.seconds.most_common())}))


def _task(settings: dict[str, Any]) -> PrepareTask:
    spec: dict[str, Any] = {
        "source": "jsonl",
        "uri": settings["corpus"],
        "max_sequence_length": settings["length"],
        "validation": {"fraction": settings["fraction"]},
    }
    if settings["name"] == "regraft":  # (a) takes every text as it is
        spec["cleaning"] = ()
        spec["validation"]["near_duplicates"] = None
    return PrepareTask(
        dataset=DatasetSpec.model_validate(spec),
        tokenizer_uri=settings["tokenizer"],
        vocab_size=None,
        output_uri=f"{settings['target']}-datasets",
    )


def _watch(watch: clock.Clock) -> None:
    """Put the clock around the functions that do the work."""
    import h5py  # not above, as in a stage: hands load while these do

    from regraft_dataprep import documents, encoders, gathered, piece_writer, pipeline, report, shards, units, work
    from regraft_dataprep.sources.base import Source

    watch.function(Source, "inventory", "sha256 of the corpus")
    watch.generator(piece_writer.PieceWriter, "_with_text", "reading and JSON")
    watch.function(piece_writer.Cleaner, "clean", "cleaning (ftfy)")
    watch.function(encoders.GigatokenEncoder, "encode", "BPE by gigatoken")
    watch.function(encoders.ReferenceEncoder, "encode", "BPE of the sample by `tokenizers`")
    watch.function(piece_writer, "triples", "sketches: hashes of triples")
    watch.function(piece_writer, "signatures", "sketches: MinHash")
    watch.function(piece_writer, "sampled_spans", "sketches: spans")
    watch.function(piece_writer.PieceWriter, "_write_batch", "pieces: columns, digests, writing")
    watch.function(work, "_sync", "disk: fsync of the work folder")
    watch.function(gathered, "decide", "deciding: duplicates, near duplicates, split")
    watch.function(gathered, "measure_overlap", "overlap of the splits")
    watch.function(report, "languages", "report: languages")
    watch.function(pipeline, "corpus_report", "report: everything else")
    watch.function(shards, "_block", "windows")
    watch.generator(shards, "deflated", "shuffle and deflate")
    watch.function(shards, "append_deflated", "writing HDF5")
    watch.function(shards, "validate_shard", "verifying: reading, inflate, values")
    watch.function(h5py.File, "close", "writing HDF5")
    watch.function(documents, "write_documents", "documents.parquet")
    watch.function(pipeline, "load_both", "loading gigatoken")
    watch.function(pipeline, "fastest_encoder", "BPE of the awkward texts, once")
    for module in (pipeline, units):
        watch.function(module, "load_tokenizer", "loading the tokenizer")
    watch.function(sys.modules["regraft.storage.publish"], "_seal", "disk: sha256 and fsync of the dataset")


if __name__ == "__main__":
    main()
