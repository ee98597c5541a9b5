"""`regraft convert` killed at every step of its way: what is seen is old or new, and the same command goes on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from regraft_worker.sample import write_sample_checkpoint

RUN = """
import itertools, os, signal, sys
from regraft.cli import main
from regraft_worker.conversion.writers.base import NewFile

at = sys.argv.pop(1)
last = int(at) if at.isdigit() else 0

def end():
    os.kill(os.getpid(), signal.SIGKILL)

def before_renames(event, words):
    if event == "os.rename" and at in os.fspath(words[1]):
        end()

write_at, numbers = NewFile.write_at, itertools.count(1)

def in_the_middle(file, offset, content):
    is_last = next(numbers) == last
    write_at(file, offset, content[: len(content) // 2] if is_last else content)
    if is_last:
        end()

if last:
    NewFile.write_at = in_the_middle
elif at:
    sys.addaudithook(before_renames)
main()
"""


class Way(NamedTuple):
    """A conversion, and where it is killed in one run after the other: before this name is given, or at that write."""

    words: tuple[str, ...]
    outputs: tuple[str, ...]
    kills: tuple[str, ...]
    kept_after: int
    """From this kill on there is a whole file to go on with."""


STEM = "pytorch_model_to_cs-2.2"
WAYS = {
    "one file": Way(
        ("--tgt-fmt", "cs-1.8"),
        ("config_to_cs-2.2_to_cs-1.8.yaml", f"{STEM}_to_cs-1.8.verification.json", f"{STEM}_to_cs-1.8.mdl"),
        (
            "20",
            f"/{STEM}_to_cs-1.8.mdl",
            "/proven.json",
            "/config_to_cs-2.2_to_cs-1.8.yaml",
            f"/{STEM}_to_cs-1.8.verification.json",
            f"out/{STEM}_to_cs-1.8.mdl",
        ),
        0,
    ),
    "a folder of shards": Way(
        ("--tgt-fmt", "hf", "--hf-shard-size", "40KB", "--export-safetensors"),
        (f"{STEM}_to_hf",),
        ("9", "/model-00005-of-", "/proven.json", f"out/{STEM}_to_hf"),
        0,
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_sample_checkpoint(folder / "hf", family="gptneox", vocab_size=300, hidden_size=32, num_layers=4, std=0.3)
    done = command(folder / "hf", "--src-fmt", "hf", "--tgt-fmt", "cs-2.2", "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder / f"{STEM}.mdl"


def command(checkpoint: Path, *words: str, at: str = "") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", RUN, at, "convert", str(checkpoint), "--no-transformers", *words]
    return subprocess.run(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)


def convert(source: Path, way: Way, out: Path, *, at: str = "", options: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    return command(source, "--src-fmt", "cs-2.2", *way.words, "--output-dir", str(out), *options, at=at)


def seen(folder: Path) -> dict[str, str]:
    """Digests of the files under their names; work folders are hidden."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".work-" not in str(path.relative_to(folder))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", WAYS)
def test_a_command_that_is_killed_at_every_step_ends_as_if_nothing_had_happened(
    source: Path, tmp_path: Path, name: str
) -> None:
    way, out = WAYS[name], tmp_path / "out"
    assert convert(source, way, tmp_path / "undisturbed").returncode == 0
    whole = seen(tmp_path / "undisturbed")
    for number, at in enumerate(way.kills):
        done = convert(source, way, out, at=at)
        assert done.returncode == -signal.SIGKILL, (at, done.stderr)
        found = seen(out)
        assert all(whole[file] == digest for file, digest in found.items())
        checkpoint = [file for file in found if file.startswith(way.outputs[-1])]
        assert not checkpoint
        kept = list(out.glob(".work-*/finished.json"))
        assert bool(kept) or number <= way.kept_after
    done = convert(source, way, out)
    assert done.returncode == 0, done.stderr
    assert "note: went on from an earlier run, which had written and proven everything\n" in done.stderr
    assert "Proven: " in done.stderr
    assert seen(out) == whole
    assert sorted(path.name for path in out.iterdir()) == sorted(way.outputs)


def test_finished_shards_are_kept_and_others_made_anew(source: Path, tmp_path: Path) -> None:
    way, out = WAYS["a folder of shards"], tmp_path / "out"
    assert convert(source, way, out, at="/model-00005-of-").returncode == -signal.SIGKILL
    shards = sorted(out.glob(".work-*/*/model-*-of-*.safetensors"))
    assert len(shards) == 4
    times, right = [path.stat().st_mtime_ns for path in shards], shards[1].read_bytes()
    shards[1].write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert convert(source, way, out, at="/proven.json").returncode == -signal.SIGKILL
    assert shards[1].read_bytes() == right
    found = [path.stat().st_mtime_ns for path in shards]
    assert [a == b for a, b in zip(times, found, strict=True)] == [True, False, True, True]
    other = convert(source, Way(("--tgt-fmt", "hf", "--hf-shard-size", "90KB"), (), (), 0), out)
    assert other.returncode == 0, other.stderr
    assert "went on" not in other.stderr
    (folder,) = out.iterdir()
    assert not list(folder.glob("*.safetensors"))


def test_a_file_that_was_cut_short_is_gone_on_with(source: Path, tmp_path: Path) -> None:
    """Of HDF5; the other encodings are killed above, and in the tests of the writers."""
    way, out = Way(("--tgt-fmt", "cs-2.9"), (), (), 0), tmp_path / "out"
    assert convert(source, way, tmp_path / "undisturbed").returncode == 0
    assert convert(source, way, out, at="25").returncode == -signal.SIGKILL
    (journal,) = out.glob(".work-*/partial/*.journal")
    count = len(journal.read_text().splitlines()) - 1
    assert count > 20
    done = convert(source, way, out)
    assert done.returncode == 0, done.stderr
    assert f"note: went on from an earlier run, which had finished {count} tensors (" in done.stderr
    assert seen(out) == seen(tmp_path / "undisturbed")
    assert sorted(path.name for path in out.iterdir()) == sorted(seen(out))


def test_a_pair_that_is_overwritten_is_old_or_incomplete_or_new_and_never_mixed(source: Path, tmp_path: Path) -> None:
    way, out = WAYS["one file"], tmp_path / "out"
    assert convert(source, way, tmp_path / "undisturbed").returncode == 0
    new = seen(tmp_path / "undisturbed")
    out.mkdir()
    for name in way.outputs:
        (out / name).write_bytes(f"old {name}".encode())
    old, (config, proof, checkpoint) = seen(out), way.outputs
    for at, expected in {
        f"/replaced-{checkpoint}": old,
        f"out/{config}": {config: old[config], proof: old[proof]},
        f"out/{proof}": {config: new[config], proof: old[proof]},
        f"out/{checkpoint}": {config: new[config], proof: new[proof]},
    }.items():
        done = convert(source, way, out, at=at, options=("--overwrite",))
        assert done.returncode == -signal.SIGKILL, (at, done.stderr)
        assert seen(out) == expected
    done = convert(source, way, out, options=("--overwrite",))
    assert done.returncode == 0, done.stderr
    assert seen(out) == new
    assert sorted(path.name for path in out.iterdir()) == sorted(way.outputs)
