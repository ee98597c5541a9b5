"""Examples of answers for the API's description: one for each kind of thing that is sent, made by its own class."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from regraft.jobstore.creation import first_stages
from regraft_api.answers_plan import DIGEST, plan, spelled_out
from regraft_api.schemas import AttemptView, EventView, Health, JobView, MetricView, Progress, StageView
from regraft_api.schemas_checkpoints import CheckpointView, FileView, Lineage, Origin
from regraft_api.schemas_fleet import (
    Capabilities,
    KeyView,
    LogLine,
    NewKeyView,
    Queue,
    QueueView,
    Series,
    SeriesPoint,
    TargetView,
    WaitingView,
    WorkerView,
)

JOB, CHECKPOINT, WORKER = "job-7c0ffee5eed1234a", "art-51ced00d0ff1ce42", "worker-node1-4711"
RUN = f"file:///data/regraft/storage/jobs/{JOB}/train"
NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def answers() -> dict[str, dict[str, Any]]:
    """Of each schema its example, as it goes over the wire."""
    found: list[BaseModel] = [_job(), plan(), *_history(), *_checkpoints(), *_fleet(), *_keys()]
    return {type(one).__name__: one.model_dump(mode="json", by_alias=True) for one in found}


def _after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def _job() -> JobView:
    """In the middle of its training."""
    spec = spelled_out()
    stages = {
        one["name"]: StageView(name=one["name"], status=one["status"]) for one in first_stages(spec, admitted=True)
    }
    stages |= {"prepare": _done("prepare", 3.5), "convert": _done("convert", 1.0), "train": _training()}
    return JobView(
        id=JOB,
        name=spec.name,
        status="running",
        percent=50.0,
        priority=spec.priority,
        labels=spec.labels,
        warnings=[],
        stages=list(stages.values()),
        spec=spec.model_dump(mode="json", by_alias=True),
        created_at=NOON,
        started_at=_after(0.1),
    )


def _done(name: str, minutes: float) -> StageView:
    return StageView(name=name, status="succeeded", started_at=_after(0.1), finished_at=_after(minutes))


def _training() -> StageView:
    """At its second attempt."""
    lost = AttemptView(
        attempt=1,
        worker=WORKER,
        status="failed",
        reason="worker_lost",
        reason_class="infrastructure",
        message=f"worker {WORKER} has not been heard of since its lease ran out",
        detail=None,
        exit_status=None,
        signal=None,
        started_at=_after(3.6),
        finished_at=_after(30),
    )
    again = {"attempt": 2, "status": "running", "started_at": _after(30.1), "finished_at": None}
    quiet = dict.fromkeys(("reason", "reason_class", "message"))
    metrics = {"train_loss": 2.31, "tokens_per_second": 4800.0}
    return StageView(
        name="train",
        status="running",
        worker=WORKER,
        progress=Progress(
            step=12500, total_steps=25000, tokens_seen=358400000, percent=50.0, seconds_left=74600.0, metrics=metrics
        ),
        attempts=[lost, lost.model_copy(update={**again, **quiet})],
        started_at=_after(3.6),
    )


def _history() -> list[BaseModel]:
    event = EventView(
        id="7",
        stage="train",
        level="info",
        type="state",
        message="train is running",
        data={"status": "running", "attempt": 2},
        created_at=_after(30.1),
    )
    point = {"step": 12500, "tokens_seen": 358400000, "value": 2.31}
    metric = {"id": "12500.train.train_loss", "stage": "train", "name": "train_loss", "attempt": 2}
    line = LogLine(id="81920", stage="train", attempt=2, text="going on from step 12000")
    spans = [SeriesPoint(**point, min=2.29, max=2.34, count=50)]
    return [
        event,
        MetricView.model_validate({**metric, **point, "created_at": _after(90)}),
        Series(id="train.train_loss", stage="train", name="train_loss", points=spans),
        line,
    ]


def _checkpoints() -> list[BaseModel]:
    names = ("dataset", "base_checkpoint")
    spec = spelled_out()
    sources = {"dataset": list(spec.dataset.uris), "base_checkpoint": [spec.base_checkpoint.uri]}
    made = [Origin(role=name, address=DIGEST, uri=f"file:///data/{name}", sources=sources[name]) for name in names]
    return [
        CheckpointView(
            id=CHECKPOINT,
            job_id=JOB,
            attempt=2,
            step=12000,
            tokens_seen=344064000,
            format="hf",
            uri=f"{RUN}/step-00012000",
            state="complete",
            promoted=False,
            parent_id=None,
            metrics={"val_loss": 2.35},
            created_at=_after(80),
        ),
        FileView(id="model.safetensors", bytes=24_213_525_376, sha256=DIGEST),
        Lineage(
            checkpoint_id=CHECKPOINT,
            job_id=JOB,
            attempt=2,
            step=12000,
            origins=made,
            parents=dict.fromkeys(names, DIGEST),
            made_by={"training": {"max_steps": 25000, "batch_size": 56}},
        ),
    ]


def _fleet() -> list[BaseModel]:
    offers = {"targets": {"cpu": {"devices": 1, "memory_bytes": 274_877_906_944}}}
    queues = ["convert", "train.cpu", "evaluate.cpu", "export"]
    worker = WorkerView(
        name=WORKER,
        service="worker",
        version="0.2.0",
        queues=queues,
        offers=offers,
        started_at=NOON,
        seen_at=_after(90),
    )
    other = "job-0ddba11cafe51234"
    waiting = WaitingView(id=f"{other}.train", job_id=other, stage="train", queue="train.cpu", available_at=_after(89))
    depth = QueueView(queue="train.cpu", ready=1, running=1, oldest_seconds=60.0, workers=1)
    ends = {"first_id": waiting.id, "last_id": waiting.id}
    return [
        worker,
        waiting,
        Queue(data=[waiting], has_more=False, queues=[depth], **ends),
        Capabilities(
            targets=[TargetView(kind="cpu", devices=1, workers=1, facts=offers["targets"]["cpu"])],
            families=["gptj", "gpt-neox"],
            sources=["jsonl", "text", "trc2"],
            formats=["hf", "cs-1.8"],
            recipes=["gptj-6b-trc2", "tiny-cpu"],
            workers=[worker],
        ),
        Health(status="ok", checks={"database": "ok", "broker": "ok", "storage": "ok"}),
    ]


def _keys() -> list[BaseModel]:
    key = KeyView(
        id="key-2f1e3d5c7b9a8f60",
        prefix="rgk_4f2a09c1d3e5",
        name="dashboard",
        scope="read",
        project_id="default",
        created_at=NOON,
        last_used_at=None,
        expires_at=_after(365 * 24 * 60),
        revoked_at=None,
    )
    return [key, NewKeyView(**key.model_dump(), key="rgk_4f2a09c1d3e5_...")]
