"""`regraft convert` killed at every step of its way: what is seen is old or new, and the same command goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from regraft_worker.sample import write_sample_checkpoint

RUN = """
import itertools, os, signal, sys
from regraft.cli import main
from regraft_worker.conversion import parted
from regraft_worker.conversion.writers.base import NewFile

at, _, nth = sys.argv.pop(1).partition("#")
how = sys.argv.pop(1)
last = int(at) if at.isdigit() else 0
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
numbers = itertools.count(1)

def end():
    if how == "full":
        raise OSError(28, "No space left on device")
    os.kill(os.getpid(), signal.SIGINT if how == "interrupted" else signal.SIGKILL)

def before_renames(event, words):
    if event == "os.rename" and at in os.fspath(words[1]) and next(numbers) == int(nth or 1):
        end()

write_at = NewFile.write_at
if how == "killed, with no exchange":
    parted._change_places = lambda made, final: False

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
    """A conversion, and where it is killed in one run after the other: before this name is given, or at that write.

    `name#2`: before it is given for the second time.
    """

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


@pytest.fixture(scope="module")
def wholes(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each way gives when nothing happens."""
    folder = tmp_path_factory.mktemp("wholes")
    for name, way in WAYS.items():
        assert convert(source, way, folder / name).returncode == 0
    return {name: seen(folder / name) for name in WAYS}


def command(checkpoint: Path, *words: str, at: str = "", how: str = "killed") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", RUN, at, how, "convert", str(checkpoint), "--no-transformers", *words]
    return subprocess.run(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)


def convert(
    source: Path, way: Way, out: Path, *options: str, at: str = "", how: str = "killed"
) -> subprocess.CompletedProcess[str]:
    words = ("--src-fmt", "cs-2.2", *way.words, "--output-dir", str(out), *options)
    return command(source, *words, at=at, how=how)


def seen(folder: Path) -> dict[str, str]:
    """Digests of the files under their names; work folders are hidden."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".work-" not in str(path.relative_to(folder))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", WAYS)
def test_a_command_that_is_killed_at_every_step_ends_as_if_nothing_had_happened(
    source: Path, wholes: dict[str, dict[str, str]], tmp_path: Path, name: str
) -> None:
    way, out, whole = WAYS[name], tmp_path / "out", wholes[name]
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


def old_ones(out: Path, way: Way) -> dict[str, str]:
    """Outputs of another conversion under the names of this one."""
    out.mkdir()
    for name in way.outputs:
        (out / name).write_bytes(f"old {name}".encode())
    return seen(out)


def test_a_pair_that_is_overwritten_is_old_or_incomplete_or_new_and_never_mixed(
    source: Path, wholes: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    way, out, new = WAYS["one file"], tmp_path / "out", wholes["one file"]
    old, (config, proof, checkpoint) = old_ones(out, way), way.outputs
    for at, expected in {
        f"/replaced-{checkpoint}": old,
        f"out/{config}": {},
        f"out/{proof}": {config: old[config]},  # while what the run before had begun is taken back
        f"out/{proof}#2": {config: new[config]},
        f"out/{checkpoint}#2": {config: new[config], proof: new[proof]},
    }.items():
        done = convert(source, way, out, "--overwrite", at=at)
        assert done.returncode == -signal.SIGKILL, (at, done.stderr)
        assert seen(out) == expected
    done = convert(source, way, out, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert "had written and proven everything" in done.stderr
    assert seen(out) == new
    assert sorted(path.name for path in out.iterdir()) == sorted(way.outputs)


def with_nan(source: Path, folder: Path) -> Path:
    content = torch.load(source, weights_only=True)
    content["model"]["lm_head.weight"][3, 1] = float("nan")
    folder.mkdir()
    shutil.copy(source.with_name("config_to_cs-2.2.yaml"), folder)
    torch.save(content, folder / source.name)
    return folder / source.name


def test_what_was_to_be_overwritten_outlives_any_other_command(
    source: Path, wholes: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """After a kill between the old checkpoint's going and the new one's coming."""
    way, out = WAYS["one file"], tmp_path / "out"
    old, (_, _, checkpoint) = old_ones(out, way), way.outputs

    def killed(at: str) -> None:
        assert convert(source, way, out, "--overwrite", at=at).returncode == -signal.SIGKILL
        assert checkpoint not in seen(out)

    killed(f"out/{checkpoint}")
    for other in ((), ("--drop-unmatched-keys",)):
        refused = convert(source, way, out, *other)
        assert (refused.returncode, seen(out)) == (1, old)
        assert "the output is there already" in refused.stderr
    assert len(list(out.glob(f".work-*/{checkpoint}"))) == 1  # the new one, whole and proven
    killed(f"out/{checkpoint}")
    failed = convert(with_nan(source, tmp_path / "nan"), way, out, "--overwrite")
    assert (failed.returncode, seen(out)) == (1, old)
    assert "not finite" in failed.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(way.outputs)
    killed(f"out/{checkpoint}")
    done = convert(source, way, out, "--overwrite", "--drop-unmatched-keys")
    assert (done.returncode, seen(out)) == (0, wholes["one file"])
    assert sorted(path.name for path in out.iterdir()) == sorted(way.outputs)


def test_a_folder_that_cannot_change_places_is_put_back(source: Path, tmp_path: Path) -> None:
    way, out = WAYS["a folder of shards"], tmp_path / "out"
    (name,) = way.outputs
    (out / name).mkdir(parents=True)
    (out / name / "old").write_bytes(b"old")
    old = seen(out)
    done = convert(source, way, out, "--overwrite", at=f"out/{name}", how="killed, with no exchange")
    assert (done.returncode, seen(out)) == (-signal.SIGKILL, {})
    other = convert(source, way, out, "--drop-unmatched-keys")
    assert (other.returncode, seen(out)) == (1, old)


def test_who_is_interrupted_or_has_no_room_is_told_that_the_same_command_goes_on(source: Path, tmp_path: Path) -> None:
    way, out = WAYS["a folder of shards"], tmp_path / "out"
    for how, shard in (("interrupted", 3), ("full", 5)):
        done = convert(source, way, out, at=f"/model-{shard:05}-of-", how=how)
        assert done.returncode > 0
        (work,) = out.glob(".work-*")
        assert f"note: what is whole is kept in {work}; the same command goes on with it\n" in done.stderr
    assert done.stdout == "Conversion failed.\n"
    assert "No space left on device" in done.stderr
    done = convert(source, way, out)
    assert done.returncode == 0, done.stderr
    assert "note: went on from an earlier run, which had finished 4 files" in done.stderr
