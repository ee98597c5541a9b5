"""The alerts, by Prometheus' own `promtool`, and the labels that they and the dashboard ask by."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine, text

from helpers import spec
from regraft.jobstore import Jobs, Workers
from regraft.settings import Settings
from regraft_api.hub import Hub
from regraft_api.prometheus import Deployment

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/regraft/files/alerts.yaml"
STORIES = ROOT / "tests/assets/alerts_test.yaml"
NAMES = {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
OF_A_SCRAPE = {"job", "instance", "namespace", "service", "pod", "container", "endpoint", "node"}
RUNNING = (
    "UPDATE stages SET status = 'running', progress = '{\"metrics\": {\"tokens_per_second\": 7}}' WHERE name = 'train'"
)


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool on PATH")
    return found


def told(promtool: str, folder: Path, change: Any = lambda rule: rule) -> subprocess.CompletedProcess[str]:
    """What promtool says of the stories, with each rule changed."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    for rule in groups[0]["rules"]:
        rule["annotations"].pop("description")
        rule.update(change(rule))
    (folder / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    shutil.copy(STORIES, folder)
    command = [promtool, "test", "rules", STORIES.name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_prometheus_reads_the_rules(promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", str(RULES)], check=True, capture_output=True)


def test_each_alert_comes_when_it_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    done = told(promtool, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("planted", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_an_alert_that_never_comes_or_always_is_found(promtool: str, tmp_path: Path, planted: str) -> None:
    done = told(promtool, tmp_path, lambda _: {"expr": planted, "for": "0s"})
    assert done.returncode != 0
    assert set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr)) == NAMES


def test_processes_that_tell_the_same_are_not_added_up(promtool: str, tmp_path: Path) -> None:
    done = told(promtool, tmp_path, lambda rule: {"expr": rule["expr"].replace("max by (queue)", "sum by (queue)")})
    assert "RegraftQueueUnserved" in done.stdout + done.stderr
    assert done.returncode != 0


def test_no_label_of_ours_is_one_that_a_scrape_adds(settings: Settings, engine: Engine) -> None:
    """Prometheus would rename it to `exported_...`, and alerts and dashboard would look at the target's."""
    Workers(engine).seen("w", service="worker", version="1", queues=[], offers={})
    Jobs(engine).create(spec())
    with engine.begin() as connection:
        connection.execute(text(RUNNING))
    registry = CollectorRegistry()
    registry.register(Deployment(engine, Workers(engine), Hub(engine, settings.database_url, on_keys=lambda _: None)))
    labels = set(re.findall(r'[{,](\w+)="', generate_latest(registry).decode()))
    assert {"job_id", "role", "queue", "status"} <= labels
    assert not labels & OF_A_SCRAPE
