"""Jobs on the appliance's double through every real part: HTTP, PostgreSQL, Valkey, Celery workers, stage processes.

What is compared is our weights: the double trains with our own arithmetic, as no real cluster does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment, deployment, files_of
from safetensors.torch import load_file

from appliance.install import Appliance, install
from helpers import eventually
from regraft.errors import InvalidInputError
from regraft.settings import Settings
from regraft.storage import is_published

ALL = ("api", "dispatcher", "dataprep", "worker")


@pytest.fixture
def appliance(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Appliance:
    """A cluster that mounts the deployment's storage, and a site that knows it."""
    made = install(tmp_path / "appliance", lease_seconds_real=600.0)
    site = {
        "CLIENT": made.client,
        "RELEASE": "2.10",
        "CSCTL": made.csctl,
        "MGMT_ADDRESS": "cluster.invalid:443",
        "MGMT_NAMESPACE": "job-operator",
        "CREDENTIALS_PATH": made.credentials,
        "MOUNT_DIRS": tmp_path,
        "POLL_SECONDS": 0.3,
        "SETTLE_SECONDS": 0.3,
    }
    for name, value in site.items():
        monkeypatch.setenv(f"REGRAFT_CEREBRAS_{name}", str(value))
    return made


def on_cluster(job: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {**job, "target": {"kind": "cerebras", **options}}


def weights(job: dict[str, Any]) -> dict[str, Any]:
    train = next(stage for stage in job["stages"] if stage["name"] == "train")
    folder = files_of(train["result"]["uri"])
    assert is_published(folder)
    return load_file(folder / "model.safetensors")


def farthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def step_of(running: Deployment, job_id: str) -> int:
    """Of the newest checkpoint; 0: there is none."""
    return max((entry["step"] for entry in running.client.checkpoints(job_id)["data"]), default=0)


def await_offer(running: Deployment) -> None:
    offered = lambda: "cerebras" in str(running.client.get("/capabilities"))  # noqa: E731
    eventually(offered, seconds=60, what="a worker that offers the cluster")


def messages(running: Deployment, job_id: str) -> list[str]:
    return [event["message"] for event in running.client.events(job_id)]


def is_refused_before_anything_is_prepared(running: Deployment, job: dict[str, Any], appliance: Appliance) -> str:
    """A model that the cluster cannot compile."""
    appliance.set(failures=[{"class": "ApplianceCompilationError", "where": "compile"}])
    refused = running.submit(on_cluster(job, preflight="compile"))
    assert running.await_end(refused)["status"] == "failed"
    stages = {stage["name"]: stage for stage in running.client.get_job(refused)["stages"]}
    assert (stages["preflight"]["status"], stages["preflight"]["reason"]) == ("failed", "compilation_failed")
    attempts = {name: len(stage["attempts"]) for name, stage in stages.items()}
    assert attempts.pop("preflight") == 1
    assert set(attempts.values()) == {0}
    return refused


def is_cancelled_once(running: Deployment, job: dict[str, Any], appliance: Appliance) -> None:
    """In the cluster's queue, by a client that does not end its own job."""
    appliance.set(queue_seconds=1e9, sigint="leaves")
    cancelled = running.submit(on_cluster(job))
    waits = lambda: running.stage(cancelled, "train")["reason"] == "waiting_for_appliance"  # noqa: E731
    eventually(waits, seconds=60, what="a place in the queue")
    running.client.act(cancelled, "cancel")
    assert running.await_end(cancelled)["status"] == "cancelled"
    ended = lambda: all(found["ended"] for found in appliance.jobs(**{"regraft-job": cancelled}))  # noqa: E731
    eventually(ended, seconds=60, what="the end of the cluster's job")
    (found,) = appliance.jobs(**{"regraft-job": cancelled})
    assert (found["phase"], found["cancels"]) == ("CANCELLED", 1)
    appliance.set(queue_seconds=0.0, sigint="cancels")


def test_a_job_on_a_cluster_is_a_job_like_any_other(
    settings: Settings, job: dict[str, Any], appliance: Appliance
) -> None:
    """One whose worker is killed, one that moves to the processor half way, and one on the processor: same weights."""
    job["training"] |= {"max_steps": 15, "evaluate": {"every_steps": 15, "at_start": False}}
    job["output"] = {"formats": ["hf"]}
    with deployment(settings.model_copy(update={"hang_seconds": 20.0}), *ALL) as running:
        await_offer(running)
        with pytest.raises(InvalidInputError, match=r"target\.release"):
            running.submit(on_cluster(job, release="2.4"))
        refused = is_refused_before_anything_is_prepared(running, job, appliance)

        appliance.set(hold_checkpoint=10)
        killed = running.submit(on_cluster(job, preflight="validate"))
        eventually(lambda: step_of(running, killed) >= 5, seconds=120, what="a checkpoint")
        running.kill("worker")
        eventually(lambda: not appliance.clients(), seconds=60, what="the end of the client")
        (orphan,) = (found["id"] for found in appliance.jobs() if found["phase"] == "RUNNING")
        appliance.set(hold_checkpoint=0)
        running.start("worker")
        ended = running.await_end(killed)
        assert ended["status"] == "succeeded", ended["message"]
        assert ended["stages"][0]["name"] == "preflight"
        assert [words[2] for words in appliance.calls("cancel", "job")] == [orphan]
        assert any("was left over by an earlier client" in message for message in messages(running, killed))
        of_preflight = {"regraft-job": killed, "regraft-stage": "preflight"}
        assert "compile" in {found["kind"] for found in appliance.jobs(**of_preflight)}
        is_cancelled_once(running, job, appliance)

        # A day in the queue, longer than a lease and than a stage may be silent.
        appliance.set(hold_checkpoint=10, queue_seconds_of={"execute": 86400.0}, speed=86400.0 / 24)
        moved = running.submit(on_cluster(job))
        eventually(lambda: step_of(running, moved) >= 5, seconds=120, what="a checkpoint")
        running.client.act(moved, "pause")
        appliance.set(hold_checkpoint=0, step_seconds_real=3.0)  # so that it does not end before it is told
        eventually(lambda: running.client.get_job(moved)["status"] == "paused", seconds=60, what="the pause")
        assert 5 < step_of(running, moved) < 15
        running.client.act(moved, "resume", body={"target": {"kind": "cpu"}})
        train = running.stage(moved, "train")
        assert (len(train["attempts"]), train["attempts"][0]["reason"]) == (1, "paused")
        assert any("waits for the cluster, 1 of 1" in message for message in messages(running, moved))
        on_both = running.await_end(moved)
        assert on_both["status"] == "succeeded", on_both["message"]
        assert any(message.startswith("handed over from cerebras to cpu") for message in messages(running, moved))

        here = running.await_end(running.submit(job))
        assert here["status"] == "succeeded", here["message"]
        assert farthest(weights(here), weights(ended)) < 1e-5
        assert farthest(weights(here), weights(on_both)) < 1e-5
        others = [found for found in appliance.jobs() if found["labels"]["regraft-job"] != refused]
        assert all(found["phase"] in ("SUCCEEDED", "CANCELLED") for found in others)
