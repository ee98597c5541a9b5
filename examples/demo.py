"""`make demo`: the main job on this machine, through the same API and command line that a user has.

Starts the embedded stack on a free port, writes sample inputs, posts the job over HTTP, shows its progress, prints
what came out and where, and stops everything. Data stays in `demo/`: a second run uses it again.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from regraft.client import Client
from regraft.embedded import free_port
from regraft.jobfile import read_job_file
from regraft.keyfile import read_key
from regraft.watch import Watcher

HERE = Path(__file__).resolve().parent
HOME = HERE.parent / "demo"
INPUTS = HOME / "inputs"
CORPUS = INPUTS / "TRC2-headlines-docs-TRECBLOG.v2"
CHECKPOINT = INPUTS / "gptj-tiny"
REGRAFT = (sys.executable, "-P", "-m", "regraft")


def main() -> int:
    """Run the demo; returns the exit status."""
    began = time.monotonic()
    write_inputs()
    with stack() as url, Client(url, key=read_key(HOME)) as client:
        cancel_leftovers(client)
        job_id = submit(client, url)
        show_result(client.get_job(job_id), client.checkpoints(job_id))
    say(f"everything is stopped; it took {time.monotonic() - began:.0f} s. The data stays in {HOME}")
    return 0


def say(text: str) -> None:
    """Print a line of the demo's own."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def regraft(*arguments: str) -> None:
    """A `regraft` command that must succeed."""
    subprocess.run([*REGRAFT, *arguments], check=True, stdout=subprocess.DEVNULL)


def write_inputs() -> None:
    """A corpus in TRC2's format and a tiny GPT-J, unless an earlier run has written them."""
    if (CHECKPOINT / "config.json").exists():
        say(f"== inputs: those of an earlier run, in {INPUTS}")
        return
    say(f"== inputs: writing a corpus in TRC2's format and a tiny GPT-J to {INPUTS}")
    shutil.rmtree(INPUTS, ignore_errors=True)
    INPUTS.mkdir(parents=True)
    regraft("sample", "trc2", "--output", str(CORPUS), "--stories", "8000", "--seed", "1")
    sizes = ("--vocab-size", "1024", "--hidden-size", "128", "--num-layers", "4", "--num-heads", "4")
    tokenizer = ("--tokenizer-text", str(CORPUS), "--max-position-embeddings", "256")
    regraft("sample", "checkpoint", "gptj", "--output", str(CHECKPOINT), *tokenizer, *sizes)


@contextmanager
def stack() -> Iterator[str]:
    """`regraft up` on a free port; yields the API's URL once it is ready."""
    port = free_port()
    say("== stack: Postgres, Valkey, API, dispatcher and workers")
    process = subprocess.Popen([*REGRAFT, "up", "--home", str(HOME), "--port", str(port)], stdout=subprocess.PIPE)
    try:
        await_ready(process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def await_ready(process: subprocess.Popen[bytes]) -> None:
    """Until `regraft up` says that it is up."""
    assert process.stdout is not None
    for line in process.stdout:
        say(f"   {line.decode().rstrip()}")
        if b"stop with" in line:
            return
    raise SystemExit("the stack did not start")


def cancel_leftovers(client: Client) -> None:
    """Jobs of demos that were interrupted: they would go on, and this one's job would wait for them."""
    for status in ("queued", "running", "pausing", "paused", "cancelling"):
        for job in client.list_jobs(status=status, label="example=demo", limit=100)["data"]:
            say(f"== cancelling {job['id']}, which a demo that was interrupted has left")
            client.cancel_job(job["id"])
            for _ in client.watch(job["id"]):  # until its process has saved and stopped
                pass


def submit(client: Client, url: str) -> str:
    """`POST /jobs`, then show live progress until the job has ended."""
    job_file = HOME / "job.yaml"
    shutil.copy(HERE / "demo-job.yaml", job_file)
    say(f"== job: POST {url}/jobs")
    accepted = client.create_job(read_job_file(job_file))
    for warning in accepted["warnings"]:
        say(f"   warning: {warning}")
    watcher = Watcher(sys.stdout)
    for job in client.watch(accepted["id"]):
        watcher.show(job)
    if job["status"] != "succeeded":
        raise SystemExit(f"the job {job['status']}: {job['message']}")
    return str(job["id"])


def show_result(job: Any, checkpoints: Any) -> None:
    """Where everything lies, and the numbers."""
    results = {stage["name"]: stage["result"] for stage in job["stages"]}
    reused = [stage["name"] for stage in job["stages"] if stage["status"] == "cached"]
    train, evaluation = results["train"], results["evaluate"]
    say("== result")
    say(f"   used again from an earlier run: {', '.join(reused) if reused else 'nothing, this was the first'}")
    say(f"   dataset      {path_of(results['prepare']['uri'])}")
    say(f"   checkpoint   {path_of(train['uri'])}  (step {train['step']}, {train['tokens_seen']:,} tokens)")
    for name, uri in results["export"]["artifacts"].items():
        say(f"   {name:12} {path_of(uri)}")
    say(f"   evaluation   {path_of(evaluation['uri'])}")
    say(f"   metrics      GET /jobs/{job['id']}/metrics  (train_loss at the end: {train['train_loss']:.4f})")
    say(f"   kept         {[point['step'] for point in checkpoints['data'] if point['state'] == 'complete']} (steps)")
    for name in ("base", "trained"):
        scores = evaluation["scores"][name]
        numbers = f"perplexity {scores['perplexity']:9.2f}   accuracy {scores['accuracy']:.3f}"
        say(f"   {name:8} loss {scores['loss']:.4f}   {numbers}   ({scores['tokens']:,} held-out tokens)")
    say(f"   perplexity changed by {100 * evaluation['perplexity_change']:+.1f} %")


def path_of(uri: str) -> str:
    """The path in a file URI."""
    return unquote(urlsplit(uri).path)


if __name__ == "__main__":
    sys.exit(main())
