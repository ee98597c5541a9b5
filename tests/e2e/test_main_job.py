"""The main job through every real part: HTTP, PostgreSQL, Valkey, Celery workers, stage processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import h5py
import redis
from deployment import Deployment, deployment, files_of

from helpers import eventually
from regraft.errors import InvalidInputError
from regraft.settings import Settings
from regraft.storage import is_published

CONVERT_P2 = "convert\x06\x163"  # the broker's list for that priority
ALL = ("api", "dispatcher", "dataprep", "worker")


def weights_of(job: dict[str, Any]) -> bytes:
    """The bytes of the trained weights."""
    train = next(stage for stage in job["stages"] if stage["name"] == "train")
    return (files_of(train["result"]["uri"]) / "model.safetensors").read_bytes()


def results_of(job: dict[str, Any]) -> dict[str, Any]:
    return {stage["name"]: stage["result"] for stage in job["stages"]}


def await_workers(running: Deployment, job: dict[str, Any]) -> None:
    """Until a job would be accepted without a warning about missing workers."""
    unknown = {**job, "target": {"kind": "unknown"}}
    eventually(lambda: refused(running, unknown), seconds=60, what="workers")


def refused(running: Deployment, job: dict[str, Any]) -> bool:
    try:
        running.client.cancel_job(running.submit(job))
    except InvalidInputError:
        return True
    return False


def test_a_job_runs_to_a_verified_checkpoint_and_a_second_one_reuses_it(
    settings: Settings, job: dict[str, Any]
) -> None:
    with deployment(settings, *ALL) as running:
        await_workers(running, job)
        first = running.await_end(running.submit(job))
        assert first["status"] == "succeeded", first["message"]
        assert [stage["status"] for stage in first["stages"]] == ["succeeded"] * 5
        results = results_of(first)

        with h5py.File(next((files_of(results["prepare"]["uri"]) / "train").glob("*.h5"))) as file:
            assert file["data"].shape[1:] == (3, 64)
        assert results["evaluate"]["perplexity_change"] < -0.2
        scores = results["evaluate"]["scores"]
        assert scores["trained"]["tokens"] == scores["base"]["tokens"] == results["prepare"]["eval_tokens"]
        for uri in [results["train"]["uri"], *results["export"]["artifacts"].values()]:
            assert is_published(files_of(uri))
        assert set(results["export"]["artifacts"]) == {"hf", "cs-1.8"}
        assert sorted(running.losses(first["id"])) == list(range(1, 41))
        page = running.client.checkpoints(first["id"])["data"]
        assert [point["step"] for point in page] == list(range(5, 41, 5))
        assert [point["step"] for point in page if point["state"] == "complete"] == [35, 40]
        assert all(files_of(point["uri"]).exists() == (point["state"] == "complete") for point in page)

        second = running.await_end(running.submit(job))
        assert [stage["status"] for stage in second["stages"]][:2] == ["cached", "cached"]
        assert weights_of(second) == weights_of(first)
        assert running.losses(second["id"]) == running.losses(first["id"])


def test_a_train_stage_disturbed_again_and_again_ends_with_the_same_bits(
    settings: Settings, job: dict[str, Any]
) -> None:
    job["training"].update(max_steps=400, checkpoint={"every_steps": 20, "keep_last": 2})  # never done before disturbed
    job["output"]["formats"] = ["hf"]
    with deployment(settings, *ALL) as running:
        undisturbed = running.await_end(running.submit(job))
        job_id = running.submit(job)
        for number, (_, _, disturb) in enumerate(DISTURBANCES, start=1):
            await_checkpoint_of(running, job_id, number)
            disturb(running)
        disturbed = running.await_end(job_id)

        assert disturbed["status"] == "succeeded", disturbed["message"]
        attempts = running.stage(job_id, "train")["attempts"]
        ends = [(status, reason) for status, reason, _ in DISTURBANCES]
        assert [(attempt["status"], attempt["reason"]) for attempt in attempts] == [*ends, ("succeeded", None)]
        assert weights_of(disturbed) == weights_of(undisturbed)
        assert running.losses(job_id) == running.losses(undisturbed["id"])
        messages = [event["message"] for event in running.client.events(job_id)]
        assert sum("going on from step" in message for message in messages) == len(DISTURBANCES)


def await_checkpoint_of(running: Deployment, job_id: str, attempt: int) -> None:
    """Until that attempt at training has saved something of its own."""
    eventually(
        lambda: len(running.stage(job_id, "train")["attempts"]) == attempt, seconds=120, what="the attempt's start"
    )
    before = saved(running, job_id)
    eventually(lambda: saved(running, job_id) > before, seconds=120, what="a checkpoint of the attempt")


def saved(running: Deployment, job_id: str) -> int:
    """The step of the newest checkpoint."""
    return max((point["step"] for point in running.client.checkpoints(job_id)["data"]), default=0)


def kill_worker(running: Deployment) -> None:
    """SIGKILL for the Celery worker, and another one in its place."""
    running.kill("worker")
    running.start("worker")


def stop_worker(running: Deployment) -> None:
    """SIGTERM for the Celery worker, as a new release does it, and another one in its place."""
    running.terminate("worker")
    running.start("worker")


def kill_stage_process(running: Deployment) -> None:
    """SIGKILL for the process that trains; found by its command line and this deployment's home."""
    home = f"REGRAFT_HOME={running.settings.home}\0".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"regraft_worker.stage\0train" in command and home in environment:
            os.kill(int(entry.name), signal.SIGKILL)
            return
    raise AssertionError("no stage process is training")


DISTURBANCES = (
    ("failed", "worker_lost", kill_worker),
    ("failed", "killed", kill_stage_process),
    ("released", "worker_drained", stop_worker),
)


def test_a_broker_flushed_between_two_stages_loses_nothing(settings: Settings, job: dict[str, Any]) -> None:
    with deployment(settings, "api", "dispatcher", "dataprep") as running:
        job["training"]["max_steps"] = 5
        job_id = running.submit(job)
        running.await_stage(job_id, "prepare", "succeeded")
        with redis.Redis.from_url(settings.redis_url) as broker:
            assert broker.llen(CONVERT_P2) > 0  # the hint that is lost
            broker.flushall()
            assert broker.llen(CONVERT_P2) == 0
        running.start("worker")
        assert running.await_end(job_id)["status"] == "succeeded"


def test_what_only_the_stages_can_see_fails_the_job_with_its_reason(
    settings: Settings, job: dict[str, Any], tmp_path: Path
) -> None:
    """A corpus without stories and a checkpoint whose config lies, where the API does not look at files."""
    blind = settings.model_copy(update={"check_files": False})
    (tmp_path / "empty").write_bytes(b"<DOC>\n<DOCNO>TRC2-2008-01-01-0001</DOCNO>\n<CONTENT>\n</CONTENT>\n</DOC>\n")
    base = Path(job["base_checkpoint"]["uri"])
    lying = tmp_path / "lying"
    lying.mkdir()
    for file in base.iterdir():
        (lying / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (lying / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    cases = {
        "corpus_empty": ({"dataset": {**job["dataset"], "uri": str(tmp_path / "empty")}}, "prepare", "data_error"),
        "corpus_not_found": ({"dataset": {**job["dataset"], "uri": "/nowhere"}}, "prepare", "user_error"),
        "sequence_too_long": ({"dataset": {**job["dataset"], "max_sequence_length": 65}}, "prepare", "user_error"),
        "config_tensors_disagree": ({"base_checkpoint": {"uri": str(lying)}}, "convert", "data_error"),
    }
    with deployment(blind, *ALL) as running:
        for reason, (change, stage_name, reason_class) in cases.items():
            ended = running.await_end(running.submit({**job, **change}))
            stage = running.stage(ended["id"], stage_name)
            assert (ended["status"], ended["reason"], ended["reason_class"]) == ("failed", reason, reason_class)
            assert stage["status"] == "failed"
            assert stage["attempts"][-1]["detail"]["field"].partition(".")[0] in ("dataset", "base_checkpoint")
            assert stage["attempts"][-1]["detail"]["remedy"]
            assert "Traceback" not in json.dumps(ended)


def test_cancelling_a_training_job_stops_it_and_keeps_what_it_saved(settings: Settings, job: dict[str, Any]) -> None:
    job["training"]["max_steps"] = 100_000
    with deployment(settings, *ALL) as running:
        job_id = running.submit(job)
        eventually(lambda: running.client.checkpoints(job_id)["data"], seconds=90, what="a checkpoint")
        running.client.cancel_job(job_id)
        ended = running.await_end(job_id)
        assert (ended["status"], ended["reason_class"]) == ("cancelled", "user_request")
        kept = [point for point in running.client.checkpoints(job_id)["data"] if point["state"] == "complete"]
        assert kept
        assert all(is_published(files_of(point["uri"])) for point in kept)
