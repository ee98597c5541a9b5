"""The main job with its artifacts in a bucket, on machines that share no disk."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, deployment

from helpers import eventually, key_for, plant
from regraft.settings import Settings
from regraft.storage import Mirror, is_published
from s3_server import s3_server

PROCESSES = ("api", "dispatcher", "dataprep")
HOLD = """
import time
from regraft.storage import Mirror

def held(self, folder, **options):
    while folder.name == "step-00000030":
        time.sleep(0.05)
    publish(self, folder, **options)

publish, Mirror.publish = Mirror.publish, held
"""
"""In a worker: the training cannot end, for one of its checkpoints is not sent."""


@pytest.fixture
def in_bucket(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3", bucket="regraft") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield settings.model_copy(update={"storage_uri": "s3://regraft/one/two"})


def elsewhere(settings: Settings, name: str) -> Settings:
    """The same deployment as another machine has it: nothing on its disk."""
    return settings.model_copy(update={"home": settings.home.with_name(name)})


def steps_of(running: Deployment, job_id: str) -> list[int]:
    return [point["step"] for point in running.client.checkpoints(job_id)["data"] if point["state"] == "complete"]


def test_a_job_whose_worker_is_lost_with_its_disk_ends_on_another_machine(
    in_bucket: Settings, job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job["training"].update(max_steps=60, checkpoint={"every_steps": 6, "keep_last": 2})
    job["output"]["formats"] = ["hf"]
    first, second = elsewhere(in_bucket, "first"), elsewhere(in_bucket, "second")
    with deployment(in_bucket, *PROCESSES) as running, Deployment(first).alone() as lost:
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(plant(tmp_path, HOLD)))
            lost.start("worker")
        job_id = running.submit(job)
        eventually(lambda: len(steps_of(running, job_id)) >= 2, seconds=120, what="two checkpoints in the bucket")
        lost.kill("worker")
        shutil.rmtree(first.home)
        with Deployment(second).alone("worker"):
            ended = running.await_end(job_id)
            assert ended["status"] == "succeeded", ended["message"]
            again = running.submit(job)
            for stage in ("prepare", "convert"):
                assert running.await_stage(again, stage, "cached", "succeeded")["status"] == "cached"
            running.client.cancel_job(again)
            running.await_end(again)

        results = {stage["name"]: stage["result"] for stage in ended["stages"]}
        uris = [results["prepare"]["uri"], results["convert"]["uri"], results["train"]["uri"]]
        uris += [results["evaluate"]["uri"], *results["export"]["artifacts"].values()]
        assert all(uri.startswith("s3://regraft/one/two/") for uri in uris)
        mirror = Mirror(in_bucket.storage_root, tmp_path / "seen")
        for uri in uris:
            assert mirror.fetch(uri)
            assert is_published(mirror.path(uri))
        kept = mirror.depot.artifacts(f"s3://regraft/one/two/jobs/{job_id}/train")
        assert kept == ["step-00000054", "step-00000060"]
        assert steps_of(running, job_id) == [54, 60]
        assert any("going on from step" in event["message"] for event in running.client.events(job_id))
        assert sorted(running.losses(job_id)) == list(range(1, 61))
        read_over_http(running, job_id, mirror.path(results["train"]["uri"]))


def read_over_http(running: Deployment, job_id: str, folder: Path) -> None:
    """Files, ranges and promotion through the API, which has none of it on its disk."""
    point = running.client.checkpoints(job_id)["data"][-1]
    base = f"http://127.0.0.1:{running.settings.api_port}/jobs/{job_id}/checkpoints"
    weights = (folder / "model.safetensors").read_bytes()
    with httpx.Client(headers=key_for(running.settings)) as client:
        files = client.get(f"{base}/{point['id']}/files").json()["data"]
        assert {file["id"] for file in files} >= {"model.safetensors", "training_state/state.json"}
        address = f"{base}/{point['id']}/files/model.safetensors"
        whole = client.get(address)
        assert whole.content == weights
        assert whole.headers["etag"] == f'"{hashlib.sha256(weights).hexdigest()}"'
        tag = {"If-Range": whole.headers["etag"]}
        part = client.get(address, headers={"Range": "bytes=10-19", **tag})
        assert (part.status_code, part.content) == (206, weights[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(weights)}"
        assert client.get(address, headers={"Range": "bytes=-7"}).content == weights[-7:]
        assert client.get(address, headers={"Range": "bytes=1-2", "If-Range": '"other"'}).content == weights
        assert client.get(address, headers={"Range": f"bytes={len(weights)}-"}).status_code == 416
        assert client.get(address, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        promoted = client.post(f"{base}/{point['id']}/promote").json()
        assert promoted["uri"] == f"s3://regraft/one/two/promoted/{point['id']}"
        assert client.get(f"{base}/{promoted['id']}/files/model.safetensors").content == weights
        assert client.get(f"{base}/{point['id']}/lineage").json()["parents"]
