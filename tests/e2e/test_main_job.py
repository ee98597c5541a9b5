"""The main job through every real part: HTTP, PostgreSQL, Valkey, Celery workers, stage processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest
import redis
from deployment import Deployment, deployment, files_of
from scraping import check_attempts, check_pace, check_queue

from helpers import eventually
from regraft.ports import NullProgress
from regraft.settings import Settings
from regraft.specs import TargetSpec, TrainingSpec, TrainTask
from regraft.storage import is_published
from regraft_worker.trainer.loop import train

CONVERT_P2 = "convert\x06\x163"  # the broker's list for that priority
ALL = ("api", "dispatcher", "dataprep", "worker")


def weights_of(job: dict[str, Any]) -> bytes:
    """The bytes of the trained weights."""
    train = next(stage for stage in job["stages"] if stage["name"] == "train")
    return (files_of(train["result"]["uri"]) / "model.safetensors").read_bytes()


def results_of(job: dict[str, Any]) -> dict[str, Any]:
    return {stage["name"]: stage["result"] for stage in job["stages"]}


def test_a_job_runs_to_a_verified_checkpoint_and_a_second_one_reuses_it(
    settings: Settings, job: dict[str, Any]
) -> None:
    with deployment(settings, "api", "dispatcher", "dataprep") as running:
        job_id = running.submit(job)
        lose_the_hint_of_convert(running, job_id)
        running.start("worker")
        first = running.await_end(job_id)
        assert first["status"] == "succeeded", first["message"]
        check_results(running, first)

        second = running.submit(job)
        running.await_stage(second, "train", "succeeded")
        again = running.client.get_job(second)
        assert [stage["status"] for stage in again["stages"]][:2] == ["cached", "cached"]
        assert weights_of(again) == weights_of(first)
        assert running.losses(second) == running.losses(first["id"])
        running.client.cancel_job(second)
        running.await_end(second)


def lose_the_hint_of_convert(running: Deployment, job_id: str) -> None:
    """The broker is flushed between two stages, when nobody has taken the second one up."""
    running.await_stage(job_id, "prepare", "succeeded")
    with redis.Redis.from_url(running.settings.redis_url) as broker:
        assert broker.llen(CONVERT_P2) > 0
        broker.flushall()
        assert broker.llen(CONVERT_P2) == 0
    check_queue(running, "convert")


def check_results(running: Deployment, job: dict[str, Any]) -> None:
    """What every stage of the job has left."""
    assert [stage["status"] for stage in job["stages"]] == ["succeeded"] * 5
    results = results_of(job)
    with h5py.File(next((files_of(results["prepare"]["uri"]) / "train").glob("*.h5"))) as file:
        assert file["data"].shape[1:] == (3, 64)
    assert results["evaluate"]["perplexity_change"] < -0.2
    scores = results["evaluate"]["scores"]
    assert scores["trained"]["tokens"] == scores["base"]["tokens"] == results["prepare"]["eval_tokens"]
    for uri in [results["train"]["uri"], *results["export"]["artifacts"].values()]:
        assert is_published(files_of(uri))
    assert set(results["export"]["artifacts"]) == {"hf", "cs-1.8"}
    assert sorted(running.losses(job["id"])) == list(range(1, 41))
    page = running.client.checkpoints(job["id"])["data"]
    assert [point["step"] for point in page] == list(range(5, 41, 5))
    assert [point["step"] for point in page if point["state"] == "complete"] == [35, 40]
    assert all(files_of(point["uri"]).exists() == (point["state"] == "complete") for point in page)


@pytest.fixture(scope="module")
def running(module_settings: Settings) -> Iterator[Deployment]:
    """A deployment for all tests below; its API does not look at files, and what one job has prepared others find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with deployment(module_settings.model_copy(update={"check_files": False}), *ALL) as made:
            yield made


def test_a_train_stage_disturbed_again_and_again_ends_with_the_same_bits(
    running: Deployment, job: dict[str, Any], tmp_path: Path
) -> None:
    job["training"].update(max_steps=400, checkpoint={"every_steps": 20, "keep_last": 2})  # never done before disturbed
    job["output"]["formats"] = ["hf"]
    job_id = running.submit(job)
    for number, (_, _, disturb) in enumerate(DISTURBANCES, start=1):
        await_checkpoint_of(running, job_id, number)
        if number == 1:
            check_pace(running, job_id)
        disturb(running)
    disturbed = running.await_end(job_id)

    assert disturbed["status"] == "succeeded", disturbed["message"]
    attempts = running.stage(job_id, "train")["attempts"]
    ends = [(status, reason) for status, reason, _ in DISTURBANCES]
    assert [(attempt["status"], attempt["reason"]) for attempt in attempts] == [*ends, ("succeeded", None)]
    weights, losses = undisturbed(disturbed, tmp_path)
    assert weights_of(disturbed) == weights
    assert running.losses(job_id) == losses
    assert continuations(running, job_id) == len(DISTURBANCES)
    check_attempts(running, job_id)


def undisturbed(job: dict[str, Any], folder: Path) -> tuple[bytes, dict[int, float]]:
    """The weights and losses of the job's training, made here by the core alone."""
    results, losses = results_of(job), _Losses()
    whole = {**job["spec"]["training"], "checkpoint": {"every_steps": 400}}
    task = TrainTask(
        dataset_uri=results["prepare"]["uri"],
        checkpoint_uri=results["convert"]["uri"],
        training=TrainingSpec.model_validate(whole),
        target=TargetSpec(kind="cpu"),
        output_uri=str(folder / "run"),
    )
    made = train(task, losses)
    return (files_of(made.uri) / "model.safetensors").read_bytes(), losses.found


class _Losses(NullProgress):
    def __init__(self) -> None:
        self.found: dict[int, float] = {}

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        self.found |= {step: metrics["train_loss"]} if "train_loss" in metrics else {}


def await_checkpoint_of(running: Deployment, job_id: str, attempt: int) -> None:
    """Until that attempt at training has saved something of its own, after it has said again what it found."""
    eventually(
        lambda: len(running.stage(job_id, "train")["attempts"]) == attempt, seconds=120, what="the attempt's start"
    )
    eventually(lambda: continuations(running, job_id) == attempt - 1, seconds=120, what="where the attempt goes on")
    before = saved(running, job_id)
    eventually(lambda: saved(running, job_id) > before, seconds=120, what="a checkpoint of the attempt")


def continuations(running: Deployment, job_id: str) -> int:
    """How many attempts have said from which step they go on."""
    return sum("going on from step" in event["message"] for event in running.client.events(job_id))


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


def test_what_only_the_stages_can_see_fails_the_job_with_its_reason(
    running: Deployment, job: dict[str, Any], tmp_path: Path
) -> None:
    """A corpus without stories and a checkpoint whose config lies, where the API does not look at files."""
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
    for reason, (change, stage_name, reason_class) in cases.items():
        ended = running.await_end(running.submit({**job, **change}))
        stage = running.stage(ended["id"], stage_name)
        assert (ended["status"], ended["reason"], ended["reason_class"]) == ("failed", reason, reason_class)
        assert stage["status"] == "failed"
        assert stage["attempts"][-1]["detail"]["field"].partition(".")[0] in ("dataset", "base_checkpoint")
        assert stage["attempts"][-1]["detail"]["remedy"]
        assert "Traceback" not in json.dumps(ended)


def test_cancelling_a_training_job_stops_it_and_keeps_what_it_saved(running: Deployment, job: dict[str, Any]) -> None:
    job["training"]["max_steps"] = 100_000
    job_id = running.submit(job)
    eventually(lambda: running.client.checkpoints(job_id)["data"], seconds=90, what="a checkpoint")
    running.client.cancel_job(job_id)
    ended = running.await_end(job_id)
    assert (ended["status"], ended["reason_class"]) == ("cancelled", "user_request")
    kept = [point for point in running.client.checkpoints(job_id)["data"] if point["state"] == "complete"]
    assert kept
    assert all(is_published(files_of(point["uri"])) for point in kept)
