"""Training steps against what else makes them: tokens/s, peak memory, and the share of the machine's matmul rate.

    python benchmarks/train.py [--steps 6] [--rounds 2] [--litgpt] [--busy] [--work FOLDER]

A GPT-J and a GPT-NeoX of 49 million weights (30 million of them in matrix products), each at fp32 and bf16 autocast:
forward, backward, clipping and AdamW on the same random batches from the same checkpoint. Contestants are processes of
their own, one after the other, in rounds; the fastest step of each counts, since others' work on the machine only ever
slows. `--busy` is for a machine that others use meanwhile: one thread each, and its CPU seconds, which still feel what
others take of caches and memory. `--litgpt` installs litgpt into an environment of its own in the temporary folder, and
needs a package index.

Losses must be equal before a time is worth anything: at fp32 all of transformers' within 1e-5, and litgpt's first one,
since its GPT-J has biases that it goes on to train.

The trade-off: small models, so two thirds of the work is the vocabulary's. Peak memory is the process's own, imports
included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from regraft_worker.sample import write_sample_checkpoint

LITGPT = "0.5.13"
SHAPE = {"hidden_size": 384, "num_layers": 6, "num_heads": 6}
VOCABULARY, LENGTH, BATCH = 50_400, 256, 8
FAMILIES = ("gptj", "gptneox")
PRECISIONS = ("fp32", "bf16")


def main() -> None:
    arguments = _arguments()
    programs = {"regraft": Path(sys.executable), "transformers": Path(sys.executable)}
    if arguments.litgpt:
        programs["litgpt"] = _environment()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.2f}; Python {platform.python_version()}\n")
    print(
        "| model | | tokens/s | times | peak MB | share of memory | of the matmul rate |\n" + "|---|---" * 3 + "|---|"
    )
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-", dir=arguments.work) as folder:
        for family in arguments.family or FAMILIES:
            for precision in arguments.precision or PRECISIONS:
                settings = _settings(
                    Path(folder) / family, family, precision, steps=arguments.steps, busy=arguments.busy
                )
                _compare(programs, settings, rounds=arguments.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure training steps.")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each contestant in each round")
    parser.add_argument("--rounds", type=int, default=2, help="of all contestants in turn")
    parser.add_argument("--litgpt", action="store_true", help="measure litgpt too; installs it apart")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only this one")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="only this one")
    parser.add_argument("--busy", action="store_true", help="one thread and its CPU seconds, beside others' work")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    return parser.parse_args()


def _settings(folder: Path, family: Any, precision: str, *, steps: int, busy: bool) -> dict[str, Any]:
    if not folder.exists():
        write_sample_checkpoint(folder, family=family, vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **SHAPE)
    config = json.loads((folder / "config.json").read_text())
    head = SHAPE["hidden_size"] // SHAPE["num_heads"]
    return {
        "family": family,
        "precision": precision,
        "checkpoint": str(folder),
        "shape": SHAPE,
        "rotary_share": config.get("rotary_pct") or config["rotary_dim"] / head,
        "vocab_size": VOCABULARY,
        "length": LENGTH,
        "batch": BATCH,
        "steps": steps,
        "threads": 1 if busy else len(os.sched_getaffinity(0)),
        "busy": busy,
    }


def _environment() -> Path:
    """The interpreter of an environment with litgpt and this environment's torch version."""
    folder = Path(tempfile.gettempdir()) / f"regraft-benchmark-litgpt-{LITGPT}"
    program, done = folder / "bin" / "python", folder / "done"
    if not done.is_file():
        venv.create(folder, with_pip=True, clear=True)
        packages = [f"litgpt=={LITGPT}", "torch==2.13.0", "numpy"]
        subprocess.run([program, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return program


def _compare(programs: dict[str, Path], settings: dict[str, Any], *, rounds: int) -> None:
    """All contestants in turn, `rounds` times; one line of the table each."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            runs[name].append(_run(program, {**settings, "contestant": name}))
    if settings["precision"] == "fp32":
        _check_losses({name: results[0]["losses"] for name, results in runs.items()})
    rate = max(result["rate"] for results in runs.values() for result in results)
    for name, results in runs.items():
        print(_line(name, results, runs["regraft"], settings, rate=rate), flush=True)


def _run(program: Path, settings: dict[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(settings, file)
        file.flush()
        command = [str(program), str(Path(__file__).parent / "train_contestants.py"), file.name]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return dict(json.loads(said.splitlines()[-1]))


def _check_losses(losses: dict[str, list[float]]) -> None:
    ours = losses["regraft"]
    worst = max(abs(a - b) for a, b in zip(ours, losses["transformers"], strict=True))
    assert worst < 1e-5, f"losses differ from those of transformers by {worst}"
    if "litgpt" in losses:
        assert abs(ours[0] - losses["litgpt"][0]) < 1e-5, f"litgpt's first loss is {losses['litgpt'][0]}, not {ours[0]}"


def _line(
    name: str, results: list[dict[str, Any]], ours: list[dict[str, Any]], settings: dict[str, Any], *, rate: float
) -> str:
    seconds, mine = (min(second for result in of for second in result["seconds"]) for of in (results, ours))
    peak, my_peak = (min(result["rss"] for result in of) for of in (results, ours))
    times = "" if name == "regraft" else f"{seconds / mine:.2f}"
    memory = "" if name == "regraft" else f"{my_peak / peak:.2f}"
    share = f"{_flops() / seconds / rate:.0%} of {rate / 1e9:,.0f} GFLOP/s"
    title = f"{settings['family']} {settings['precision']}"
    return f"| {title} | {name} | {BATCH * LENGTH / seconds:,.0f} | {times} | {peak / 1e6:,.0f} | {memory} | {share} |"


def _flops() -> float:
    """Of one step's matrix products, forward and backward; the embedding makes none, attention sees half the square."""
    hidden, layers = SHAPE["hidden_size"], SHAPE["num_layers"]
    weights = layers * 12 * hidden**2 + VOCABULARY * hidden
    attention = layers * 2 * (LENGTH / 2) * hidden
    return 6.0 * BATCH * LENGTH * (weights + attention)


if __name__ == "__main__":
    main()
