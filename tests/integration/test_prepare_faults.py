"""Data preparation against what machines do: kills at any moment, full disks, little memory. All of it real."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from helpers import children, eventually
from regraft.processes import environments
from regraft.storage import file_sha256, is_published

RUN = """
import errno, json, sys
from regraft.child import LineProgress
from regraft.specs.stages import PrepareTask
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources
given = json.loads(sys.argv[1])
resources = Resources(**given.pop("resources"))
try:
    prepare(PrepareTask.model_validate(given), LineProgress(sys.stdout), resources=resources)
except OSError as error:
    print(json.dumps({"type": "failed", "errno": errno.errorcode.get(error.errno)}))
    sys.exit(9)
"""
KILLS = 20
MARK = "REGRAFT_TEST_FOLDER"
NAME = "manifest.json"


@dataclass
class Run:
    """A preparation in processes of its own; its folder of datasets must not lie elsewhere on a retry."""

    corpus: Path
    tokenizer: Path
    out: Path
    resources: dict[str, int] = field(default_factory=lambda: {"processes": 2, "part_bytes": 100_000})
    dataset: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> dict[str, Any]:
        fixed = {"source": "jsonl", "uri": str(self.corpus), "max_sequence_length": 128, "examples_per_file": 1000}
        dataset = {**fixed, "reading": {"id_key": "id"}, **self.dataset}
        return {"dataset": dataset, "tokenizer_uri": str(self.tokenizer), "output_uri": str(self.out)}

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """In a process group of its own."""
        argument = json.dumps({**self.task, "resources": self.resources})
        command, environment = [sys.executable, "-c", RUN, argument], {**os.environ, MARK: str(self.out)}
        with log.open("wb") as out:
            return subprocess.Popen(command, stdout=out, env=environment, start_new_session=True)

    def finish(self, log: Path) -> int:
        return self.start(log).wait(120)


def said(log: Path) -> list[dict[str, Any]]:
    """The lines of a run, but for one that was cut by a kill."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def messages(log: Path) -> list[str]:
    return [line["message"] for line in said(log) if line["type"] == "event"]


def files_of(out: Path) -> dict[str, str]:
    """Digests of the one dataset in a folder, which has nothing else in it."""
    (folder,) = out.iterdir()
    assert is_published(folder)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*.*") if path.name != NAME}


def is_complete_or_hidden(out: Path) -> bool:
    """No reader of the folder can take half a dataset for one."""
    return all(path.name.startswith((".work-", ".tmp-")) or is_published(path) for path in out.iterdir())


def write_corpus(folder: Path, *, megabytes: float, files: int = 4) -> Path:
    """Stories of 200 words, in phrases of five, with a number that comes once."""
    source = random.Random(11)
    words = ["".join(source.choices("etaoinshrdlucm", k=source.randint(2, 9))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    phrases = [" ".join(source.choices(words, weights, k=5)) for _ in range(20_000)]
    folder.mkdir()
    number = 0
    for name in range(files):
        with (folder / f"{name}.jsonl").open("w") as file:
            while file.tell() < megabytes * 1e6 / files:
                number += 1
                text = f"{source.randrange(10**9)} " + " ".join(source.choices(phrases, k=40))
                file.write(f'{{"id": "{number}", "text": "{text}"}}\n')
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 MB: 32 parts of 100 kB."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "stories", megabytes=3)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Byte-level BPE with 4,096 tokens."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    found.train([str(corpus / "0.jsonl")], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    found.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of the dataset as a run makes it that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert Run(corpus, tokenizer, folder / "out").finish(folder / "log") == 0
    return files_of(folder / "out")


def units_of(out: Path) -> int:
    """How many units are done."""
    try:
        found = [*out.glob(".work-*/gigatoken-*"), *out.glob(".work-*/train-*"), *out.glob(".work-*/eval-*")]
    except FileNotFoundError:  # published just now: the work folder went while it was looked into
        return 0
    return len(found)


def test_a_run_that_is_killed_again_and_again_makes_the_same_dataset(
    corpus: Path, tokenizer: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    source = random.Random(3)
    run = Run(corpus, tokenizer, tmp_path / "out")
    run.out.mkdir()
    kills = resumed = finished = 0
    while kills < KILLS:
        log = tmp_path / "log"
        process = run.start(log)
        wanted = units_of(run.out) + source.choice((0, 1, 1, 2, 4))
        eventually(lambda wanted=wanted, process=process: units_of(run.out) >= wanted or process.poll() is not None)
        time.sleep(source.random() * source.choice((0.02, 0.2, 1.5)))
        killed = process.poll() is None
        if kills % 2:
            with suppress(ProcessLookupError):  # it has ended by itself just now
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # its processes are to end with it
        process.wait(30)
        kills += killed
        resumed += any("parts are there from an earlier run" in message for message in messages(log))
        assert is_complete_or_hidden(run.out)
        if not killed:
            finished += 1
            assert files_of(run.out) == undisturbed
            shutil.rmtree(run.out)
            run.out.mkdir()
    assert resumed >= KILLS // 2
    assert run.finish(tmp_path / "last") == 0
    assert files_of(run.out) == undisturbed
    eventually(lambda: not processes_at(run.out), what="the end of all processes")


def processes_at(out: Path) -> list[int]:
    """Processes of runs with this folder, and what these have started."""
    return [pid for pid, values in environments() if f"{MARK}={out}".encode() in values]


def test_a_stage_that_is_told_to_stop_keeps_what_is_done(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    """By SIGTERM, as a supervisor does."""
    run = Run(corpus, tokenizer, tmp_path / "out")
    log = tmp_path / "log"
    process = stage(run, log)
    eventually(
        lambda: any(path.name == "setup" for path in run.out.glob(".work-*/setup")) or process.poll() is not None
    )
    process.terminate()
    assert process.wait(30) == 0
    assert said(log)[-1]["type"] in ("stopped", "result")
    assert stage(run, tmp_path / "again").wait(60) == 0
    assert said(tmp_path / "again")[-1]["type"] == "result"


def stage(run: Run, log: Path) -> subprocess.Popen[bytes]:
    """The stage process, with its task on standard input."""
    task = log.with_suffix(".task")
    task.write_text(json.dumps(run.task))
    with log.open("wb") as out, task.open("rb") as content:
        command = [sys.executable, "-m", "regraft_dataprep.stage", "prepare"]
        return subprocess.Popen(command, stdin=content, stdout=out, stderr=subprocess.DEVNULL)


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, seen from outside of the mount namespace that it lies in."""

    keeper: int
    mounted: Path

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.keeper}/root{self.mounted}")

    def resize(self, size: str) -> None:
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(self.keeper), "--mount", *user]
        subprocess.run([*enter, "mount", "-o", f"remount,size={size}", str(self.mounted)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """32 MB. Nothing of it is left when the test ends, however it ends."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    script = f"mount -t tmpfs -o size=32m tmpfs {mounted} && echo ready && exec sleep 600"
    command = [*private, "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as keeper:
        assert keeper.stdout
        line = keeper.stdout.readline().strip()
        if line != "ready":
            keeper.wait()
            pytest.skip(f"a small disk needs a mount namespace of one's own, which is not to be had here: {line}")
        yield SmallDisk(keeper.pid, mounted)
        keeper.kill()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("megabytes", "phase"), [(64.0, "parts"), (36.0, "files")])
def test_a_full_disk_fails_the_run_and_more_space_lets_it_go_on(
    tokenizer: Path, tmp_path: Path, small_disk: SmallDisk, processes: int, megabytes: float, phase: str
) -> None:
    resources = {"processes": processes, "part_bytes": 1_000_000}
    run = Run(write_corpus(tmp_path / "corpus", megabytes=megabytes), tokenizer, small_disk.path / "out", resources)
    assert run.finish(tmp_path / "log") == 9
    assert said(tmp_path / "log")[-1] == {"type": "failed", "errno": "ENOSPC"}
    assert bool(list(run.out.glob(".work-*/plan"))) == (phase == "files")
    (work,) = run.out.iterdir()
    assert work.name.startswith(".work-")
    assert not list(work.glob(".tmp-*"))
    small_disk.resize("256m")
    assert run.finish(tmp_path / "again") == 0
    assert any("parts are there from an earlier run" in message for message in messages(tmp_path / "again"))
    whole = Run(run.corpus, tokenizer, tmp_path / "whole", resources)
    assert whole.finish(tmp_path / "log") == 0
    assert files_of(run.out) == files_of(whole.out)


def test_a_full_disk_is_an_error_line_of_the_stage(tokenizer: Path, tmp_path: Path, small_disk: SmallDisk) -> None:
    run = Run(write_corpus(tmp_path / "corpus", megabytes=64), tokenizer, small_disk.path / "out")
    assert stage(run, tmp_path / "log").wait(120) == 1
    last = said(tmp_path / "log")[-1]
    assert (last["type"], last["reason"], last["reason_class"]) == ("error", "disk_full", "capacity")


def test_memory_does_not_grow_with_the_corpus(tokenizer: Path, tmp_path: Path) -> None:
    peaks = {}
    for megabytes in (20, 100):
        corpus = write_corpus(tmp_path / f"{megabytes}", megabytes=megabytes, files=5)
        resources = {"processes": 2, "part_bytes": 4_000_000}
        run = Run(corpus, tokenizer, tmp_path / "out", resources, {"examples_per_file": 50_000})
        peaks[megabytes] = peaks_of(run.start(tmp_path / "log"))
        assert any("is prepared" in message for message in messages(tmp_path / "log"))
    (lead, hand), (more_lead, more_hand) = peaks.values()
    assert more_hand < 1.1 * hand
    assert more_lead < 1.1 * lead
    assert max(more_lead, more_hand) < 2**29


def peaks_of(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Of the lead, and of the hand with the highest, in bytes; until they have ended."""
    peaks: dict[int, int] = {}
    while process.poll() is None:
        origins = children(process.pid)
        try:
            for pid in (process.pid, *origins, *(hand for origin in origins for hand in children(origin))):
                peaks[pid] = peak_of(pid) or peaks.get(pid, 0)  # the last one: before its exec a child has its parent's
        except OSError:
            continue  # it has ended in between
        time.sleep(0.02)
    return peaks.pop(process.pid), max(peaks.values())


def peak_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
