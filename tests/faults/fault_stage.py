"""Stage processes with real checkpoints and no model: `python -m fault_stage train`.

`train` computes a chain of hashes: each step needs the one before, as weights do. It publishes checkpoints with the
project's own storage, continues from the newest whole one, and notes each write in an audit file, so that a test can
tell whether two processes ever wrote at a time, and whether the end is what an undisturbed run ends with. What goes
wrong, and up to which attempt, is said by FAULT_ACT: `flood`, `hang@1`, or `memory@1,cuda@2` for one after the other.
FAULT_HOLD=`6,12` holds the first attempt after step 6 and the second after step 12, alive and writing nothing, until it
is let on (`Plant.let_on`), stopped or killed: what a test does to a training must not depend on how soon it does so.

FAULT_STRACE=`train fsync:signal=KILL:when=1 fsync:error=EIO:when=2` lets strace inject the first of these into the
first attempt at that stage, the second into the second. With FAULT_PREPARE=real a corpus is prepared as in production.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from regraft import child
from regraft.errors import InterruptedStageError
from regraft.ports import Progress
from regraft.specs import (
    ConvertResult,
    EvaluateResult,
    ExportResult,
    PrepareResult,
    PrepareTask,
    Spec,
    TrainResult,
    TrainTask,
)
from regraft.storage import is_published, local_path, publish, to_uri

STEP_SECONDS = float(os.environ.get("FAULT_STEP_SECONDS", "0.02"))
SAVED_EVERY = 5
FLOOD_BYTES = 40_000_000
FLOOD_BYTES_PER_SECOND = 1e9 / 60
LET_ON = "let_on"
PR_SET_PTRACER = 0x59616D61
EPOCH = int(os.environ.get("REGRAFT_ATTEMPT", "x:0:0:0").split(":")[1])


def final_state(steps: int, state: str = "") -> str:
    """What a run of so many steps ends with."""
    for step in range(1, steps + 1):
        state = advanced(state, step)
    return state


def advanced(state: str, step: int) -> str:
    return hashlib.sha256(f"{state}:{step}".encode()).hexdigest()


def traced(function: Callable[[str, Progress], Spec]) -> Callable[[str, Progress], Spec]:
    """The same stage, with strace injecting what FAULT_STRACE says of this attempt."""
    stage, *rules = os.environ.get("FAULT_STRACE", "").split() or [""]
    if function.__name__ != stage or len(rules) < EPOCH:
        return function

    def under_strace(text: str, progress: Progress) -> Spec:
        if stage == "prepare":
            import regraft_dataprep.pipeline  # noqa: F401  # traced, it would take seconds
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1))
        me = str(os.getpid())
        subprocess.Popen(["strace", "-f", "-qq", "-o", os.devnull, "-e", f"inject={rules[EPOCH - 1]}", "-p", me])
        while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
            time.sleep(0.01)
        return function(text, progress)

    return under_strace


def prepare(text: str, progress: Progress) -> Spec:
    if os.environ.get("FAULT_PREPARE") == "real":
        return prepare_really(text, progress)
    progress.step(1, {}, total=1)
    return PrepareResult(
        uri="file:///made",
        address="made",
        cached=False,
        documents=3,
        train_examples=2,
        eval_examples=1,
        train_tokens=2,
        eval_tokens=1,
        max_sequence_length=2,
        max_token_id=9,
    )


def prepare_really(text: str, progress: Progress) -> Spec:
    from regraft_dataprep.resources import Resources, keep_to_one_thread

    keep_to_one_thread()
    from regraft_dataprep.start import prepare

    task = PrepareTask.model_validate_json(text).model_copy(update={"checkpoint_uri": None})
    return prepare(task, progress, resources=Resources(processes=1, part_bytes=100_000))


def convert(text: str, progress: Progress) -> Spec:
    return ConvertResult.model_construct(uri="file:///base")


def train(text: str, progress: Progress) -> Spec:
    task = TrainTask.model_validate_json(text)
    run = local_path(task.output_uri)
    if act := chosen_act(os.environ.get("FAULT_ACT", "")):
        ACTS[act](progress)
    steps = task.training.max_steps or 0
    say_again(run, progress)
    step, state = newest(run)
    while step < steps:
        hold(run, step, progress)
        if progress.should_stop():
            save(run, step, state, progress)
            raise InterruptedStageError("saved")
        time.sleep(STEP_SECONDS)
        step += 1
        state = advanced(state, step)
        progress.step(step, {"train_loss": 1.0 / step}, total=steps, tokens=step)
        if step % SAVED_EVERY == 0 or step == steps:
            save(run, step, state, progress)
    if FLOOD.ident:
        FLOOD.join()  # whoever is held up in it is late
    return TrainResult(uri=to_uri(run / f"step-{step:08}"), step=step, tokens_seen=step, train_loss=1.0 / step)


def chosen_act(acts: str) -> str | None:
    """The first that this attempt is not beyond."""
    for act in acts.split(","):
        name, _, last = act.partition("@")
        if name and int(last or 1000) >= EPOCH:
            return name
    return None


def hold(run: Path, step: int, progress: Progress) -> None:
    """For as long as FAULT_HOLD says; whoever asks whether to stop is alive."""
    held = os.environ.get("FAULT_HOLD", "").split(",")[EPOCH - 1 : EPOCH]
    while held == [str(step)] and not (run / LET_ON).exists() and not progress.should_stop():
        time.sleep(0.02)


def say_again(run: Path, progress: Progress) -> None:
    """As the real training does: of what a lost worker's process has published nobody may have heard."""
    for folder in published(run):
        progress.artifact("checkpoint", to_uri(folder), {"step": int(folder.name[5:])})


def published(run: Path) -> list[Path]:
    return [folder for folder in sorted(run.glob("step-*")) if is_published(folder)]


def newest(run: Path) -> tuple[int, str]:
    for folder in published(run)[::-1]:
        return int(folder.name[5:]), (folder / "state").read_text()
    return 0, os.environ.get("FAULT_START", "")  # another start ends elsewhere: an error that a check must find


def save(run: Path, step: int, state: str, progress: Progress) -> None:
    if step == 0:
        return
    audit(run, step)
    with publish(run / f"step-{step:08}", kind="checkpoint") as draft:
        (draft.folder / "state").write_text(state)
        (draft.folder / "ballast").write_bytes(os.urandom(int(os.environ.get("FAULT_BALLAST", "0"))))
    progress.artifact("checkpoint", to_uri(run / f"step-{step:08}"), {"step": step})


def audit(run: Path, step: int) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "audit").open("a") as file:
        file.write(f"{EPOCH} {os.getpid()} {step}\n")


def evaluate(text: str, progress: Progress) -> Spec:
    return EvaluateResult.model_construct(uri="file:///evaluation", scores={})


def export(text: str, progress: Progress) -> Spec:
    return ExportResult.model_construct(artifacts={})


def flood(progress: Progress) -> None:
    """A gigabyte a minute beside the training: binary, in colours, a line of 4 MB, and a password in two pieces."""
    FLOOD.start()


def write_flood() -> None:
    secret = os.environ["FAULT_SECRET"].encode()
    began, written = time.monotonic(), 0
    for chunk in itertools.cycle([bytes(range(256)) * 400, b"\x1b[31mred\x1b[0m\n" * 8000, b"x" * 4_000_000 + b"\n"]):
        for piece in (chunk, secret[:5], secret[5:] + b"\n"):
            written += os.write(2, piece)
        if written >= FLOOD_BYTES:
            return
        time.sleep(max(0.0, began + written / FLOOD_BYTES_PER_SECOND - time.monotonic()))


FLOOD = threading.Thread(target=write_flood, daemon=True)


def deaf(progress: Progress) -> None:
    for number in (signal.SIGTERM, child.LEAVE):
        signal.signal(number, signal.SIG_IGN)


def hang(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def memory(progress: Progress) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    bytearray(1 << 31)


def eat(progress: Progress) -> None:
    """Until the kernel puts an end to it."""
    kept = []
    while True:
        kept.append(bytearray(b"x") * (16 << 20))


def cuda_memory(progress: Progress) -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def killed(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child(progress: Progress) -> None:
    """As a launcher does: a process in a session of its own."""
    subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)


ACTS = {
    "deaf": deaf,
    "flood": flood,
    "hang": hang,
    "memory": memory,
    "eat": eat,
    "cuda": cuda_memory,
    "killed": killed,
    "launcher": leave_a_child,
}
STAGES = {"prepare": prepare, "convert": convert, "train": train, "evaluate": evaluate, "export": export}

if __name__ == "__main__":
    sys.exit(child.run({name: traced(stage) for name, stage in STAGES.items()}))
