"""Jobs of a cluster that are left over: which of them are cancelled, by the database's word."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import Engine

from appliance.install import Appliance, install
from helpers import spec
from regraft.cerebrassite import CerebrasSite
from regraft.jobstore import Jobs, Leases, Outcome
from regraft.settings import Settings
from regraft.specs import AttemptRef
from regraft_worker.cerebras.csctl import Csctl
from regraft_worker.cerebras.marks import labels_of
from regraft_worker.reconcile import sweep_cerebras


@pytest.fixture
def appliance(tmp_path: Path) -> Appliance:
    return install(tmp_path / "appliance", systems=8)


def planted(appliance: Appliance, attempt: AttemptRef) -> str:
    name = appliance.plant(seconds=1e6)
    pairs = [f"{key}={value}" for key, value in labels_of(attempt).items()]
    subprocess.run([appliance.csctl, "label", "job", name, *pairs], check=True, capture_output=True)
    return name


def test_what_no_attempt_follows_up_is_cancelled_once(engine: Engine, settings: Settings, appliance: Appliance) -> None:
    jobs, leases = Jobs(engine), Leases(engine, settings)
    running, gone = jobs.create(spec()), jobs.create(spec())
    claim, lost = (leases.claim(f"{job.id}.prepare", worker="w") for job in (running, gone))
    assert claim is not None
    assert lost is not None
    jobs.cancel(gone.id)
    leases.finish(lost, Outcome(status="cancelled", reason="cancelled"))

    held = planted(appliance, AttemptRef(job=running.id, stage="prepare", epoch=claim.epoch))
    orphan = planted(appliance, AttemptRef(job=gone.id, stage="prepare", epoch=lost.epoch))
    others = planted(appliance, AttemptRef(job="job-of-another-deployment", stage="prepare", epoch=1))
    unmarked = appliance.plant(seconds=1e6)

    csctl = Csctl(CerebrasSite(csctl=str(appliance.csctl)))
    assert sweep_cerebras(engine, csctl) == [orphan]
    assert sweep_cerebras(engine, csctl) == []
    assert appliance.calls("cancel", "job") == [["cancel", "job", orphan]]
    phases = {job["id"]: job["phase"] for job in appliance.jobs()}
    assert {name: phases[name] for name in (held, others, unmarked)} == dict.fromkeys(
        (held, others, unmarked), "RUNNING"
    )
