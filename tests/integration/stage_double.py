"""Stage processes that misbehave on demand, for the supervisor's tests: `python -m stage_double prepare`.

The real protocol, the real child process; only the core is replaced, by what the job's name asks for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from regraft import child
from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.ports import Progress
from regraft.specs import PrepareResult, PrepareTask, Spec
from regraft_worker import launch


def prepare(text: str, progress: Progress) -> Spec:
    task = PrepareTask.model_validate_json(text)
    print("a print of the core goes to the log")
    progress.step(1, {"train_loss": 5.0}, total=2, tokens=10)
    ACTS[task.dataset.uri](progress)
    progress.event("halfway", data={"x": 1})
    progress.artifact("dataset", "file:///made", {"documents": 3})
    progress.step(2, {"train_loss": 4.0}, total=2, tokens=20)
    return PrepareResult(
        uri="file:///made",
        address="made",
        cached=task.dataset.uri == "cached",
        documents=3,
        train_examples=2,
        eval_examples=1,
        train_tokens=2,
        eval_tokens=1,
        max_sequence_length=2,
        max_token_id=9,
    )


def refuse(progress: Progress) -> None:
    raise InvalidDataError("no text", field="dataset.uri", value="x", remedy="Add some.", reason="corpus_empty")


def run_until_told(progress: Progress) -> None:
    while not progress.should_stop():
        time.sleep(0.02)
    Path(os.environ["SAVED"]).write_text("saved")
    raise InterruptedStageError("saved")


def ignore_everything(progress: Progress) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(os.environ["SAVED"]).write_text(str(os.getpid()))
    time.sleep(600)


def full_disk(progress: Progress) -> None:
    raise OSError(28, "No space left on device", "/data/x")


def fault_of_ours(progress: Progress) -> None:
    raise ZeroDivisionError("secret detail")


def crash_once(progress: Progress) -> None:
    marker = Path(os.environ["SAVED"])
    if not marker.exists():
        marker.write_text("crashed")
        os.kill(os.getpid(), signal.SIGSEGV)


def ranks_that_hang(progress: Progress, seconds: float = 600.0) -> None:
    """A launcher waits for them."""
    child.ALIVE_SECONDS = 0.1
    with subprocess.Popen(["sleep", str(seconds)], stdout=subprocess.PIPE) as ranks:
        launch._relay(ranks, progress, stop=lambda: None)


def launcher_that_vouches_for_them(progress: Progress) -> None:
    asked = progress.is_asked_to_stop

    def alive() -> bool:
        progress.write("alive")  # type: ignore[attr-defined]
        return asked()

    progress.is_asked_to_stop = alive  # type: ignore[method-assign]  # the planted error
    ranks_that_hang(progress, seconds=4.0)


ACTS = {
    "good": lambda progress: None,
    "cached": lambda progress: None,
    "refuse": refuse,
    "endless": run_until_told,
    "deaf": ignore_everything,
    "full disk": full_disk,
    "fault": fault_of_ours,
    "crash once": crash_once,
    "ranks hang": ranks_that_hang,
    "launcher vouches for ranks that hang": launcher_that_vouches_for_them,
    "killed": lambda progress: os.kill(os.getpid(), signal.SIGKILL),
}

if __name__ == "__main__":
    sys.exit(child.run({"prepare": prepare}))
