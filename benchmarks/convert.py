"""Checkpoint conversion against copying the same bytes, and against loading and saving with transformers.

    python benchmarks/convert.py [--gigabytes 2.5] [--runs 3] [--work FOLDER]

A GPT-J of full width and few layers with random fp16 weights is written once, as safetensors and as .bin. Each
contestant is a process of its own, from its start to its end, and writes to a fresh folder: `cp` and fsync of the
weights, `regraft convert` (it reads back and compares what it wrote, and computes with both sides), and transformers'
from_pretrained and save_pretrained where it is installed. One conversion also asks transformers for its logits, as the
command does by default; the others are those of `--no-transformers`.
The contestants take turns, the fastest of the runs counts. The source is in the page cache for everybody.

The trade-off: a file that fits into memory. What disks do to larger ones is not measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import measured
import torch

from regraft.families import FAMILIES, expected_tensors
from regraft.ports import NullProgress
from regraft_worker.conversion.in_transformers import SHARE
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.transfer import transfer
from regraft_worker.conversion.writers import write_safetensors, write_torch_zip
from regraft_worker.conversion.writers.nesting import flat

BLOCK = 16 * 2**20
COPY = "cp and fsync"
ASKING = "regraft: safetensors, hf to cs-2.9, transformers asked"
RIVAL = "transformers: from_pretrained, save_pretrained"
CONVERSIONS = {  # title: source, formats
    "regraft: safetensors, hf to cs-2.9": ("model.safetensors", "hf", "cs-2.9"),
    "regraft: safetensors, hf to cs-1.8": ("model.safetensors", "hf", "cs-1.8"),
    "regraft: .bin, hf to cs-2.9": ("pytorch_model.bin", "hf", "cs-2.9"),
    "regraft: .bin, hf to cs-1.8": ("pytorch_model.bin", "hf", "cs-1.8"),
    "regraft: cs-2.9 to hf, safetensors": ("back.mdl", "cs-2.9", "hf"),
}


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        _child(*arguments.child)
        return
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-", dir=arguments.work) as folder:
        work = Path(folder)
        size = _write(work / "source", gigabytes=arguments.gigabytes)
        titles = [COPY, *CONVERSIONS, *([ASKING, RIVAL] if importlib.util.find_spec("transformers") else [])]
        best: dict[str, dict[str, Any]] = {}
        for _ in range(arguments.runs):
            for title in titles:
                result = _run(title, work)
                best[title] = min(best.get(title, result), result, key=lambda one: one["wall"])
        print(_table(best, size=size))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure checkpoint conversion.")
    parser.add_argument("--gigabytes", type=float, default=2.5, help="of fp16 weights")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(folder: Path, *, gigabytes: float) -> int:
    """The checkpoint in both encodings, and as cs-2.9; the bytes of its weights."""
    folder.mkdir()
    family = next(family for family in FAMILIES if family.name == "gptj")
    head = {"model_type": "gptj", "architectures": ["GPTJForCausalLM"], "n_positions": 2048}
    one = sum(_numel(shape) for shape in expected_tensors(family, family.read_config({**head, "n_layer": 1})).values())
    two = sum(_numel(shape) for shape in expected_tensors(family, family.read_config({**head, "n_layer": 2})).values())
    layers = max(1, round((gigabytes * 1e9 / 2 - (2 * one - two)) / (two - one)))
    config = {**head, "n_layer": layers, "n_embd": 4096, "n_head": 16, "rotary_dim": 64, "vocab_size": 50400}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = [_random(name, shape) for name, shape in expected_tensors(family, family.read_config(config)).items()]
    write_safetensors(folder / "model.safetensors", tensors, values={"format": "pt"}, tick=_nothing)
    write_torch_zip(folder / "pytorch_model.bin", tensors, nest=flat, tick=_nothing)
    done = _transfer(folder / "model.safetensors", "hf", "cs-2.9", folder / "cs")
    done.checkpoint.rename(folder / "back.mdl")
    done.config.rename(folder / "back.yaml")
    return sum(tensor.nbytes for tensor in tensors)


def _random(name: str, shape: tuple[int, ...]) -> Lazy:
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(len(name))).half()
    row = _numel(shape[1:])

    def rows(start: int, stop: int) -> torch.Tensor:
        places = torch.arange(start * row, stop * row) % len(noise)
        return noise[places].reshape(stop - start, *shape[1:])

    return Lazy(name, torch.float16, shape, rows)


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.tensor(shape, dtype=torch.int64).prod()) if shape else 1


def _nothing(_: int) -> None:
    return


def _run(title: str, work: Path) -> dict[str, Any]:
    target = work / "out"
    command = [sys.executable, __file__, "--child", title, str(work / "source"), str(target)]
    if title == COPY:
        weights = str(work / "source" / "model.safetensors")
        command = [
            "sh",
            "-c",
            'mkdir "$2" && cp "$1" "$2/copy" && sync "$2/copy" && echo {}',
            "sh",
            weights,
            str(target),
        ]
    result = measured.run(command)
    shutil.rmtree(target)
    os.sync()
    return result


def _child(title: str, source: str, target: str) -> None:
    folder, out = Path(source), Path(target)
    out.mkdir()
    if title == RIVAL:
        _load_and_save(folder, out)
    else:
        name, *formats = CONVERSIONS[title.removesuffix(", transformers asked")]
        _transfer(folder / name, *formats, out, share=SHARE if title == ASKING else 0.0)
    print("{}")


def _transfer(source: Path, src: str, tgt: str, out: Path, *, share: float = 0.0) -> Any:
    config = source.with_suffix(".yaml") if src != "hf" else source.parent / "config.json"
    return transfer(
        source,
        config=config,
        model="gptj",
        src_fmt=src,
        tgt_fmt=tgt,
        output_dir=out,
        drop_unmatched_keys=False,
        hf_shard_size=10 * 10**9,
        export_safetensors=tgt == "hf",
        export_h5=False,
        progress=NullProgress(),
        transformers_share=share,
    )


def _load_and_save(folder: Path, out: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True)
    model.save_pretrained(out)
    for path in out.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _table(best: dict[str, dict[str, Any]], *, size: int) -> str:
    copied, rival = best[COPY], best.get(RIVAL)
    lines = [f"{size / 1e9:.2f} GB of weights, 2 bytes each", ""]
    lines += [
        "| | wall s | CPU s | others' CPU s | peak MB | times cp | of transformers |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, result in best.items():
        share = f"{result['wall'] / rival['wall']:.2f}" if rival else ""
        numbers = f"{result['wall']:.1f} | {result['cpu']:.1f} | {result['others']:.1f} | {result['peak'] / 1e6:.0f}"
        lines.append(f"| {title} | {numbers} | {result['wall'] / copied['wall']:.2f} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
