"""The cluster's job control: its table, its answers, and what counts as no answer."""

import subprocess
from pathlib import Path

import pytest

from appliance.install import Appliance, install
from regraft.cerebrassite import CerebrasSite
from regraft_worker.cerebras.csctl import Csctl, ListedJob, UnreachableError, place_in_queue, table

OLD = """
NAME          AGE   DURATION  PHASE    SYSTEMS   USER   LABELS                DASHBOARD
wsjob-aaa     3h    2h        RUNNING  system-1  ann    name=x,regraft-job=j  https://g/1
wsjob-bbb     2d4h            QUEUED             bob                          https://g/2
"""


@pytest.fixture
def appliance(tmp_path: Path) -> Appliance:
    return install(tmp_path / "appliance", queue_seconds=3600)


def csctl_of(appliance: Appliance, **settings: object) -> Csctl:
    return Csctl(CerebrasSite.model_validate({"csctl": str(appliance.csctl), **settings}))


def test_the_table_is_read_by_its_header() -> None:
    running, queued = table(OLD)
    assert running == ListedJob(id="wsjob-aaa", phase="RUNNING", labels={"name": "x", "regraft-job": "j"}, age=10800)
    assert (queued.phase, queued.labels, queued.age) == ("QUEUED", {}, 2 * 86400 + 4 * 3600)
    assert table("No jobs found\n") == table("") == []
    with pytest.raises(UnreachableError, match="no table"):
        table("<html>502 Bad Gateway</html>\n")


def test_the_place_in_the_queue_goes_by_priority_and_then_by_age() -> None:
    waiting = [
        ListedJob(id=name, phase=phase, labels={}, priority=priority, age=age)
        for name, phase, priority, age in (
            ("young", "QUEUED", "p2", 10),
            ("old", "QUEUED", "p2", 99),
            ("first", "IN_QUEUE", "p1", 1),
            ("runs", "RUNNING", "p1", 500),
        )
    ]
    assert [place_in_queue(waiting, name) for name in ("first", "old", "young", "runs")] == [
        (1, 3),
        (2, 3),
        (3, 3),
        None,
    ]


def test_jobs_are_listed_shown_and_cancelled(appliance: Appliance) -> None:
    csctl = csctl_of(appliance, mgmt_namespace="job-operator")
    name = appliance.plant(seconds=3600, priority="p1")
    subprocess.run([appliance.csctl, "label", "job", name, "regraft-job=job-1"], check=True, capture_output=True)
    (listed,) = csctl.jobs()
    assert (listed.id, listed.labels, listed.ended) == (name, {"regraft-job": "job-1"}, False)
    assert csctl.phase(name) == listed.phase
    csctl.cancel(name)
    assert csctl.phase(name) == "CANCELLED"


def test_a_cluster_that_refuses_or_is_silent_is_unreachable(appliance: Appliance) -> None:
    appliance.set(csctl="unavailable")
    with pytest.raises(UnreachableError, match="Unavailable"):
        csctl_of(appliance).jobs()
    appliance.set(csctl="hang")
    with pytest.raises(UnreachableError, match="did not answer in 0"):
        csctl_of(appliance, ask_seconds=0.5).jobs()
    with pytest.raises(UnreachableError, match="cannot be run"):
        Csctl(CerebrasSite(csctl="/nowhere/csctl")).jobs()


def test_the_newer_words_are_used_where_the_older_are_unknown(tmp_path: Path) -> None:
    csctl = tmp_path / "csctl"
    csctl.write_text(
        f"#!/bin/sh\n[ $1 = job ] || {{ echo 'Error: unknown command' >&2; exit 1; }}\ncat <<EOF{OLD}EOF\n"
    )
    csctl.chmod(0o755)
    assert len(Csctl(CerebrasSite(csctl=str(csctl))).jobs()) == 2
