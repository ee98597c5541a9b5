"""Sharded checkpoints: named as transformers names them, and taken up again where a killed run stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file
from writer_samples import State, digests, lazies, no_tick

from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers import write_sharded
from regraft_worker.conversion.writers.sharded import STATE, plan


class StoppedError(Exception):
    pass


def sample(seed: int = 0) -> State:
    torch.manual_seed(seed)
    sizes = (10, 90, 30, 300, 5, 60, 60)
    return {f"t{number}": torch.randn(size) for number, size in enumerate(sizes)}


def read_all(folder: Path) -> State:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("limit", [10, 100, 500, 1000, 10_000])
def test_the_plan_is_the_hubs(limit: int) -> None:
    theirs = split_torch_state_dict_into_shards(sample(), max_shard_size=limit)
    ours = {shard.name: [lazy.name for lazy in shard.tensors] for shard in plan(lazies(sample()), limit) if shard}
    assert {name: names for name, names in ours.items() if names} == {
        name: names for name, names in theirs.filename_to_tensors.items() if names
    }


def test_several_files_have_an_index_and_one_has_none(tmp_path: Path) -> None:
    found = write_sharded(tmp_path, lazies(sample()), 500, tick=no_tick)
    assert found == digests(sample())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)), "model.safetensors.index.json"]
    index = json.loads((tmp_path / names[-1]).read_text())
    assert index["metadata"] == {"total_size": 4 * 555}
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    assert index["weight_map"].keys() == sample().keys()
    (tmp_path / "one").mkdir()
    write_sharded(tmp_path / "one", lazies(sample()), 10_000, tick=no_tick)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.safetensors"]


def test_bins_are_sharded_too(tmp_path: Path) -> None:
    write_sharded(tmp_path, lazies(sample()), 500, weights="bin", aliases={"again": "t0"}, tick=no_tick)
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    assert set(index["weight_map"].values()) == {f"pytorch_model-{n:05d}-of-00004.bin" for n in range(1, 5)}
    for name, file in index["weight_map"].items():
        loaded = torch.load(tmp_path / file, weights_only=True)[name]
        assert torch.equal(loaded, sample()["t0" if name == "again" else name])


def interrupted(folder: Path, *, source: str, seed: int = 0) -> None:
    """StoppedError in the third of four shards."""
    told = 0

    def tick(count: int) -> None:
        nonlocal told
        told += count
        if told > 4 * (130 + 300):
            raise StoppedError

    with pytest.raises(StoppedError):
        write_sharded(folder, lazies(sample(seed)), 600, source=source, tick=tick)


def test_finished_shards_are_not_read_again(tmp_path: Path) -> None:
    interrupted(tmp_path, source="a")
    finished = sorted(path.name for path in tmp_path.glob("model-*"))
    assert finished
    told: list[int] = []
    tensors = plan(lazies(sample()), 600)
    unread = {lazy.name for shard in tensors if shard.name in finished for lazy in shard.tensors}
    guarded = [unreadable(lazy) if lazy.name in unread else lazy for lazy in lazies(sample())]
    found = write_sharded(tmp_path, guarded, 600, source="a", tick=told.append)
    assert found == digests(sample()) == digests(read_all(tmp_path))
    assert sum(told) == sum(tensor.nbytes for tensor in sample().values())
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("second", ["b", ""])
def test_shards_of_another_source_are_not_taken_for_its_own(tmp_path: Path, second: str) -> None:
    interrupted(tmp_path, source="a", seed=1)
    write_sharded(tmp_path, lazies(sample()), 600, source=second, tick=no_tick)
    assert digests(read_all(tmp_path)) == digests(sample())


def test_a_shard_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    interrupted(tmp_path, source="a")
    victim = next(tmp_path.glob("model-*"))
    os.truncate(victim, 100)
    write_sharded(tmp_path, lazies(sample()), 600, source="a", tick=no_tick)
    assert digests(read_all(tmp_path)) == digests(sample())


def test_without_a_source_a_failure_leaves_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path, source="")
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_writer_sharded import sample
from writer_samples import lazies
from regraft_worker.conversion.writers import write_sharded
left = int(sys.argv[2])
def tick(count):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
write_sharded(Path(sys.argv[1]), lazies(sample()), 500, source="a", tick=tick)
"""


@pytest.mark.parametrize("ticks", [0, 4])
def test_after_a_kill_the_rest_is_written(tmp_path: Path, ticks: int) -> None:
    script = _KILLED.format(here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(ticks)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert write_sharded(tmp_path, lazies(sample()), 500, source="a", tick=no_tick) == digests(sample())
    assert digests(read_all(tmp_path)) == digests(sample())
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name or path.name == STATE]


def unreadable(lazy: Lazy) -> Lazy:
    def read(start: int, stop: int) -> torch.Tensor:
        raise AssertionError("it is written already")

    return Lazy(lazy.name, lazy.dtype, lazy.shape, read)
