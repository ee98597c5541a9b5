"""Whole jobs through `POST /jobs` with `target: {kind: gpu}`; skipped where there is no GPU (docs/gpu.md)."""

from __future__ import annotations

from typing import Any

import pytest
from deployment import Deployment, deployment, files_of

from helpers import eventually
from regraft.settings import Settings
from regraft_worker.trainer.targets import gpu

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpu.available()["available"], reason="no NVIDIA GPU here")]
ALL = ("api", "dispatcher", "dataprep", "worker")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_job_on_the_gpu_survives_a_kill_and_a_pause_with_the_same_bits(
    settings: Settings, job: dict[str, Any], precision: str
) -> None:
    job["target"] = {"kind": "gpu", "devices": 1}
    job["training"].update(precision=precision, max_steps=400, checkpoint={"every_steps": 20, "keep_last": 2})
    with deployment(settings, *ALL) as running:
        eventually(lambda: _offered(running, "gpu"), seconds=120, what="a worker with a GPU")
        undisturbed = running.await_end(running.submit(job))
        assert undisturbed["status"] == "succeeded", undisturbed["message"]
        evaluated = next(stage["result"] for stage in undisturbed["stages"] if stage["name"] == "evaluate")
        assert evaluated["perplexity_change"] < -0.2

        disturbed = running.submit(job)
        _await_a_checkpoint(running, disturbed, after=0)
        running.kill("worker")
        running.start("worker")
        running.await_stage(disturbed, "train", "running", seconds=120)
        _await_a_checkpoint(running, disturbed, after=_saved(running, disturbed))
        running.client.act(disturbed, "pause")
        eventually(lambda: running.client.get_job(disturbed)["status"] == "paused", seconds=60, what="the pause")
        running.client.act(disturbed, "resume")
        ended = running.await_end(disturbed)

        assert ended["status"] == "succeeded", ended["message"]
        assert len(running.stage(disturbed, "train")["attempts"]) == 3
        assert _weights(ended) == _weights(undisturbed)
        assert running.losses(disturbed) == running.losses(undisturbed["id"])


def _offered(running: Deployment, kind: str) -> bool:
    return any(target["kind"] == kind for target in running.client.get("/capabilities")["targets"])


def _await_a_checkpoint(running: Deployment, job_id: str, *, after: int) -> None:
    eventually(lambda: _saved(running, job_id) > after, seconds=120, what="a checkpoint")


def _saved(running: Deployment, job_id: str) -> int:
    """The step of the newest checkpoint."""
    return max((point["step"] for point in running.client.checkpoints(job_id)["data"]), default=0)


def _weights(job: dict[str, Any]) -> bytes:
    train = next(stage for stage in job["stages"] if stage["name"] == "train")
    return (files_of(train["result"]["uri"]) / "model.safetensors").read_bytes()
