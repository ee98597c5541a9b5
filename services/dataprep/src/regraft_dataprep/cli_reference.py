"""`regraft trc2 clean` and `regraft trc2 split`: drop-in commands for documented steps.

Flags are spelt as in the original, with underscores. Results go to stdout as JSON, remarks to stderr. Not for new work:
`regraft prepare` reads stories and needs neither step. What a command needs is imported when it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


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


def _remark(text: str) -> None:
    typer.echo(text, err=True)


def _show(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))
