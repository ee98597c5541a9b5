"""The convert stage against what machines do: kills at any moment, and checkpoints larger than the memory for them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regraft.families import expected_tensors, family_named
from regraft.specs.stages import ExportTask
from regraft.storage import is_published
from regraft_worker.conversion.export import export
from regraft_worker.sample import write_sample_checkpoint

RUN = """
import os, signal, sys, threading, time
from regraft.ports import NullProgress
from regraft.specs.stages import ConvertTask
from regraft_worker.conversion.convert import convert

base, out, shard_bytes, share, delay = sys.argv[1:]

def end():
    time.sleep(float(delay))
    os.kill(os.getpid(), signal.SIGKILL)

class Watched(NullProgress):
    begun = False
    def step(self, done, metrics, *, total=None, **more):
        if done >= float(share) * total and not self.begun:
            self.begun = True
            threading.Thread(target=end).start() if float(delay) else end()

task = ConvertTask(checkpoint_uri=base, output_uri=out)
convert(task, Watched(), shard_bytes=int(shard_bytes), transformers_share=0.0)
"""
KILLS = 10
SHARD_BYTES = 4_000_000


def run(base: Path, out: Path, *, share: float = 2.0, delay: float = 0.0) -> int:
    """Convert; SIGKILL once this share of the bytes is through, or so many seconds later. The exit status."""
    words = [sys.executable, "-c", RUN, *map(str, (base, out, SHARD_BYTES, share, delay))]
    return subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120).returncode


def finished_shards(out: Path) -> dict[str, int]:
    """Name and time of every shard that is whole, in the work folder of a run that was cut short."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob(".work-*/model/model-*-of-*.safetensors")}


def complete_or_hidden(out: Path) -> bool:
    return all(path.name.startswith((".work-", ".tmp-")) or is_published(path) for path in out.iterdir())


@pytest.fixture(scope="module", params=["hf", "cs-1.8"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-NeoX of 40 MB, as Hugging Face has it and as Cerebras does."""
    folder = tmp_path_factory.mktemp("base")
    write_sample_checkpoint(folder / "hf", family="gptneox", vocab_size=20_000, hidden_size=128, num_layers=10, std=0.1)
    if request.param == "hf":
        return folder / "hf"
    export(
        ExportTask(checkpoint_uri=str(folder / "hf"), formats=("cs-1.8",), output_uri=str(folder)),
        transformers_share=0.0,
    )
    return next((folder / "cs-1.8").glob("*.mdl"))


def test_a_run_that_is_killed_again_and_again_writes_each_shard_once(base: Path, tmp_path: Path) -> None:
    source, out = random.Random(5), tmp_path / "out"
    out.mkdir()
    kept_on_the_way = 0
    for number in range(KILLS):
        before = finished_shards(out)
        # At exact places, and somewhere between two of them.
        status = run(base, out, share=source.random(), delay=number % 2 * source.random() * 0.05)
        after = finished_shards(out)
        assert complete_or_hidden(out)
        if status == -signal.SIGKILL and after:
            assert {name: after[name] for name in before} == before
            kept_on_the_way += bool(before)
        elif any(map(is_published, out.iterdir())):  # it was through before the signal came
            shutil.rmtree(out)
            out.mkdir()
    assert kept_on_the_way >= KILLS // 4
    assert run(base, out) == 0
    (folder,) = out.iterdir()
    assert is_published(folder)
    found = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    original = load_file((base if base.is_dir() else base.parents[1] / "hf") / "model.safetensors")
    assert found.keys() == original.keys()
    assert all(torch.equal(found[name], original[name]) for name in original)


MEASURE = """
import json, sys, threading, time
from pathlib import Path
from regraft.specs.stages import ConvertTask, ExportTask
from regraft.storage import local_path
from regraft_worker.conversion.convert import convert
from regraft_worker.conversion.export import export

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

def watch():
    while True:
        seen["anonymous"] = max(seen["anonymous"], status("RssAnon:"))
        time.sleep(0.005)

base, out = sys.argv[1:]
before = {"anonymous": status("RssAnon:"), "all": status("VmHWM:")}
seen = dict(before)
threading.Thread(target=watch, daemon=True).start()
result = convert(ConvertTask(checkpoint_uri=base, output_uri=out), transformers_share=0.0)
task = ExportTask(checkpoint_uri=result.uri, formats=("cs-1.8",), output_uri=out + "/export")
export(task, transformers_share=0.0)
seen["all"] = status("VmHWM:")
print(json.dumps({name: seen[name] - before[name] for name in seen}))
"""


def write_large(folder: Path) -> int:
    """A GPT-NeoX in half precision with the widths of a large one, all zeros and sparse; its size in bytes."""
    config: dict[str, Any] = {
        "model_type": "gpt_neox",
        "vocab_size": 50_432,
        "hidden_size": 4096,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "intermediate_size": 16_384,
        "max_position_embeddings": 2048,
    }
    family = family_named("gpt-neox")
    header: dict[str, Any] = {}
    end = 0
    for name, shape in expected_tensors(family, family.read_config(config)).items():
        begin, end = end, end + 2 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def test_a_large_checkpoint_takes_memory_for_some_blocks(tmp_path: Path) -> None:
    """There and on to Cerebras, whose q, k and v are cut out of one tensor."""
    size = write_large(tmp_path / "base")
    assert size > 10**9
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "base"), str(tmp_path / "out")]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=280)
    finally:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    peak = json.loads(done.stdout)
    assert peak["all"] < 500e6, peak
    assert peak["anonymous"] < 400e6, peak
