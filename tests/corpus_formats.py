"""The same records in every format that has fields, for the tests of sources."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[dict[str, Any]]


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=7)
    return path


def write_hf(folder: Path, rows: Rows, *, shards: int = 2) -> Path:
    """As `Dataset.save_to_disk` leaves it."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows))
    names = [f"data-{number:05d}-of-{shards:05d}.arrow" for number in range(shards)]
    step = -(-len(rows) // shards)
    for number, name in enumerate(names):
        part = table.slice(number * step, step)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=5)
    (folder / "dataset_info.json").write_text('{"features": {}}')
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


WRITERS = {
    "jsonl": (write_jsonl, "stories.jsonl"),
    "csv": (write_csv, "stories.csv"),
    "parquet": (write_parquet, "stories.parquet"),
    "huggingface": (write_hf, "stories"),
}


def write(source: str, folder: Path, rows: Rows) -> Path:
    """The rows as a corpus of `source` in `folder`; returns its path."""
    writer, name = WRITERS[source]
    return writer(folder / name, rows)
