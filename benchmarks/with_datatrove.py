"""datatrove's way from JSON lines to token ids: contestant (b). Runs in an environment of its own.

It writes a flat file of ids for each worker, which is less than the others do: no held-out part, no windows, no
compression, and nothing is read back. Shuffling, its default, is off: it is a second pass that the others do not make.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    target = Path(settings["target"])
    pipeline = [
        JsonlReader(settings["corpus"]),
        DocumentTokenizer(
            str(target / "ids"),
            tokenizer_name_or_path=str(Path(settings["tokenizer"]) / "tokenizer.json"),
            eos_token=settings["eos"],
            shuffle_documents=False,
        ),
    ]
    workers = settings["workers"]
    LocalPipelineExecutor(pipeline, tasks=workers, workers=workers, logging_dir=str(target / "logs")).run()
    tokens = sum(path.stat().st_size for path in (target / "ids").glob("*.ds")) // np.dtype(np.uint16).itemsize
    print(json.dumps({"tokens": tokens}))


if __name__ == "__main__":
    main()
