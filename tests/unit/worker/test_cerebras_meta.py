"""The client's `run_meta.json`: jobs and workflows of the cluster, each told once, like those of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cerebras_runs import Watched

from regraft.specs import TrainingSpec
from regraft_worker.cerebras.log import ApplianceJob
from regraft_worker.cerebras.observing import Told, meta_of

COMPILE = ApplianceJob(job="wsjob-1", workflow="wflow-1", mode="compile")
EXECUTE = ApplianceJob(job="wsjob-2", workflow=None, mode="execute")


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    content = {
        "compile_jobs": [
            {"namespace": "job-operator", "id": "wsjob-1", "workflow_id": "wflow-1", "start_time": "2026-01-01"},
            {"workflow_id": "wflow-9"},
            "wsjob-9",
        ],
        "execute_jobs": [{"id": "wsjob-2"}, {"id": 7}],
        "sdk_execute_jobs": [{"id": "wsjob-8"}],
    }
    path = tmp_path / "run_meta.json"
    path.write_text(json.dumps(content))
    return path


def test_jobs_and_workflows_are_read(meta: Path) -> None:
    assert meta_of(meta) == [COMPILE, EXECUTE]


def test_what_is_no_such_file_names_no_job(meta: Path) -> None:
    assert meta_of(meta.with_name("not_there.json")) == []
    whole = meta.read_text()
    for text in (whole[: len(whole) // 2], "[]", "null", '{"compile_jobs": 3}', '{"execute_jobs": null}'):
        meta.write_text(text)
        assert meta_of(meta) == []


def test_each_job_is_told_once_with_its_workflow(meta: Path) -> None:
    """Of the second the log comes first, and does not say what it is for."""
    said = Watched()
    told = Told(said, TrainingSpec(max_steps=3), length=16)
    told.take(b"2026-01-01 00:00:00,000 INFO:   Job id: wsjob-2, workflow id: wflow-2, namespace: n\n")
    for _ in range(2):
        for taken in meta_of(meta):
            told.taken(taken)
    told.take(b"2026-01-01 00:00:01,000 INFO:   Job id: wsjob-1, workflow id: wflow-1, namespace: n\n")
    assert [(data["wsjob"], data["workflow"]) for _, data in said.events] == [
        ("wsjob-2", "wflow-2"),
        ("wsjob-1", "wflow-1"),
    ]
    assert told.jobs == {"wsjob-2": "execute", "wsjob-1": "compile"}


def test_a_job_in_the_file_does_not_hide_that_the_cluster_is_away(meta: Path) -> None:
    """The log's own word for a job does: it was said after the connection was lost."""
    told = Told(Watched(), TrainingSpec(max_steps=3), length=16)
    told.take(b"grpc: the cluster server is UNAVAILABLE\n")
    told.taken(meta_of(meta)[0])
    assert told.failure is not None
    told.take(b"2026-01-01 00:00:00,000 INFO:   Job id: wsjob-3, workflow id: wflow-3, namespace: n\n")
    assert told.failure is None
