"""Images and docker-compose.yml on a real Docker engine: `make test-deploy`.

The tests are steps of one deployment and run in their order.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from containers import OF_OURS, README_JOB, ROOT, Deployed, clean_clone, deployed

from helpers import eventually

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not os.environ.get("DOCKER_HOST"), reason="needs a Docker engine: DOCKER_HOST is not set"),
]
API_BYTES = 200e6  # over its base image
ASK = """
import sys, urllib.request
headers = {"Authorization": f"Bearer {sys.stdin.read().strip()}"}
print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers, method=sys.argv[2])).read().decode())
"""
S3 = "import s3fs; bucket = s3fs.S3FileSystem(endpoint_url='http://s3:8333'); "


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(clean_clone(tmp_path_factory.mktemp("clone"))) as found:
        yield found


def test_the_api_image_is_small_and_holds_no_tensor_library_and_no_build_tool(running: Deployed) -> None:
    docker = running.compose.docker
    base = int(docker("image", "inspect", "--format", "{{.Size}}", "python:3.11-slim-bookworm"))
    size = int(docker("image", "inspect", "--format", "{{.Size}}", "regraft-test/api:0.1.0")) - base
    assert size < API_BYTES, f"{size:,} bytes over the base image"
    listing = "import importlib.metadata as m; print(*sorted(d.metadata['Name'].lower() for d in m.distributions()))"
    names = set(running.compose("exec", "-T", "api", "python", "-c", listing).split())
    assert {"regraft", "regraft-api", "fastapi"} <= names
    assert not names & {"torch", "numpy", "h5py", "safetensors", "tokenizers", "pip", "hatchling", "pytest", "ruff"}
    for tool in ("gcc", "cc", "make", "git"):
        assert running.compose.fails("exec", "-T", "api", "sh", "-c", f"command -v {tool}"), tool


def test_images_say_what_they_are(running: Deployed) -> None:
    for name in ("api", "dataprep", "worker"):
        format_ = "{{json .Config}}"
        config = json.loads(
            running.compose.docker("image", "inspect", "--format", format_, f"regraft-test/{name}:0.1.0")
        )
        assert config["User"] == "10001:10001"
        assert config["Labels"]["org.opencontainers.image.title"] == f"regraft-{name}"
        assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"
        assert config["Healthcheck"]["Test"]
        assert config["Entrypoint"] == ["dumb-init", "--"]


@pytest.mark.parametrize("service", OF_OURS)
def test_a_container_runs_without_privileges_on_a_root_that_cannot_be_written(running: Deployed, service: str) -> None:
    execute = ("exec", "-T", service)
    assert running.compose(*execute, "id", "-u").strip() == "10001"
    status = running.compose(*execute, "cat", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Name"] == "dumb-init"
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    for place in ("/opt/regraft/x", "/etc/x", "/data/x"):
        assert running.compose.fails(*execute, "touch", place), place
    running.compose(*execute, "touch", "/tmp/x")


@pytest.fixture(scope="module")
def undisturbed(running: Deployed) -> dict[str, Any]:
    """The README's inputs, made by its commands in containers, and its job at its end."""
    running.make_inputs()
    return running.await_end(running.run_readme_job())


def test_the_example_job_runs_through_the_api(running: Deployed, undisturbed: dict[str, Any]) -> None:
    assert undisturbed["status"] == "succeeded", undisturbed["message"]
    assert [stage["status"] for stage in undisturbed["stages"]] == ["succeeded"] * 5
    assert len(running.weights(undisturbed)) == 64


def test_the_readmes_commands_work_in_a_container(running: Deployed, undisturbed: dict[str, Any]) -> None:
    script = "cat >job.yaml && regraft plan job.yaml && regraft jobs submit job.yaml --watch && regraft jobs list"
    shown = running.compose(
        "--profile", "tools", "run", "--rm", "--no-TTY", "cli", "sh", "-c", script, stdin=README_JOB
    )
    assert "succeeded" in shown
    assert undisturbed["id"] in shown


def test_a_worker_killed_in_mid_train_costs_nothing_but_time(running: Deployed, undisturbed: dict[str, Any]) -> None:
    job_id = running.run_readme_job(log_every_steps=1)
    eventually(lambda: step_of(running, job_id) > 20, seconds=120, what="step 20")
    running.compose("kill", "worker")
    assert 20 < step_of(running, job_id) < 100, "killed too late to show anything"
    running.compose("up", "--detach", "--no-build", "worker")
    ended = running.await_end(job_id)
    assert ended["status"] == "succeeded", ended["message"]
    first = running.stage(job_id, "train")["attempts"][0]
    assert (first["status"], first["reason"]) == ("failed", "worker_lost")
    told = [event["data"]["step"] for event in running.client.events(job_id) if "going on from" in event["message"]]
    assert told, "it began anew"
    assert told[0] >= 20
    assert running.weights(ended) == running.weights(undisturbed)


def step_of(running: Deployed, job_id: str) -> int:
    """Of the training; 0 before it."""
    return int((running.stage(job_id, "train").get("progress") or {}).get("step") or 0)


def test_a_worker_that_is_stopped_saves_and_hands_its_stage_back(running: Deployed) -> None:
    job_id = running.run_readme_job(log_every_steps=1, seed=2, checkpoint={"every_steps": 1000})
    eventually(lambda: step_of(running, job_id) > 10, seconds=120, what="step 10")
    running.compose("stop", "worker")
    stage = running.stage(job_id, "train")
    assert stage["status"] == "ready", "it was not handed back"
    assert (stage["attempts"][0]["status"], stage["attempts"][0]["reason"]) == ("released", "worker_drained")
    assert [one["step"] for one in running.client.checkpoints(job_id)["data"]], "nothing was saved"
    running.compose("up", "--detach", "--no-build", "worker")
    assert running.await_end(job_id)["status"] == "succeeded"


def test_what_was_there_is_there_after_down_and_up(running: Deployed, undisturbed: dict[str, Any]) -> None:
    before = running.weights(undisturbed)
    running.compose("down", "--timeout", "30")
    assert running.compose("ps", "--all", "--quiet") == ""
    running.up()
    again = running.client.get_job(undisturbed["id"])
    assert again["status"] == "succeeded"
    assert again["stages"] == undisturbed["stages"]
    assert running.weights(again) == before
    renewed = running.await_end(running.run_readme_job(max_steps=2))
    assert [stage["status"] for stage in renewed["stages"]][:2] == ["cached", "cached"]


def test_a_backup_is_restored_by_the_documented_commands(running: Deployed, undisturbed: dict[str, Any]) -> None:
    section = (ROOT / "docs/compose.md").read_text().partition("## Back up, restore\n")[2].partition("\n## ")[0]
    back_up, restore = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    running.compose.shell(back_up)
    later = running.run_readme_job(max_steps=1)
    running.await_end(later)
    running.compose.shell(restore)
    eventually(running.offers_cpu, seconds=60, what="a worker offering the target cpu")
    assert running.client.get_job(undisturbed["id"])["stages"] == undisturbed["stages"]
    assert later not in {job["id"] for job in running.client.list_jobs(limit=100)["data"]}
    assert running.await_end(running.run_readme_job(max_steps=3))["status"] == "succeeded"


def test_prometheus_key_reads_metrics_and_nothing_else(running: Deployed) -> None:
    key = (running.compose.source / "secrets" / "metrics_key").read_text()
    execute = ("exec", "-T", "dispatcher", "python", "-c", ASK)
    assert 'regraft_jobs{status="succeeded"}' in running.compose(*execute, "http://api:8000/metrics", "GET", stdin=key)
    with pytest.raises(AssertionError, match="403"):
        running.compose(*execute, "http://api:8000/jobs", "POST", stdin=key)


def has_image(running: Deployed, service: str) -> bool:
    """Whether an image of others is here or can be pulled."""
    parsed = json.loads(running.compose("--profile", "*", "config", "--format", "json"))
    image = parsed["services"][service]["image"]
    here = running.compose.docker("image", "ls", "--quiet", image).strip()
    return bool(here) or not running.compose.fails("--profile", "*", "pull", service)


def queried(running: Deployed, path: str, **query: str) -> Any:
    """What Prometheus answers, asked from a container beside it."""
    url = f"http://prometheus:9090/api/v1/{path}?{urlencode(query)}"
    answer = json.loads(running.compose("exec", "-T", "dispatcher", "python", "-c", ASK, url, "GET", stdin="none"))
    assert answer["status"] == "success"
    return answer["data"]


def test_prometheus_reads_the_api_and_understands_every_alert_and_panel(running: Deployed) -> None:
    if not has_image(running, "prometheus"):
        pytest.skip("the image of Prometheus cannot be had here")
    running.compose("--profile", "observability", "up", "--detach", "--wait", "--no-build", "prometheus")
    alive = 'up{job="regraft"} == 1'
    eventually(lambda: queried(running, "query", query=alive)["result"], seconds=60, what="a scrape of the API")
    rules = queried(running, "rules")["groups"][0]["rules"]
    assert len(rules) >= 5
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert not queried(running, "series", **{"match[]": '{__name__=~"regraft_.+",exported_job!=""}'})
    asked = [*(rule["query"] for rule in rules), *panels()]
    assert len(asked) > 20
    for expression in asked:
        queried(running, "query", query=expression)
    jobs = queried(running, "query", query='regraft_jobs{status="succeeded"}')["result"]
    assert int(jobs[0]["value"][1]) >= 1


def panels() -> list[str]:
    """The expressions of the dashboard."""
    board = json.loads((ROOT / "compose/grafana/dashboards/regraft.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_the_s3_server_takes_the_key_of_the_secret_and_keeps_what_it_is_given(running: Deployed) -> None:
    running.compose("build", "s3", seconds=600)
    running.compose("--profile", "s3", "up", "--detach", "--wait", "--no-build", "s3")
    execute = ("exec", "-T", "dataprep")
    eventually(
        lambda: not running.compose.fails(*execute, "python", "-c", S3 + "bucket.pipe('regraft/x', b'kept')"),
        what="the bucket",
    )
    running.compose("--profile", "s3", "restart", "s3")
    running.compose("--profile", "s3", "up", "--detach", "--wait", "--no-build", "s3")
    read = S3 + "print(bucket.cat('regraft/x'))"
    eventually(lambda: "kept" in running.compose(*execute, "python", "-c", read), what="the object after a restart")
    wrong = ("exec", "-T", "--env", "AWS_SECRET_ACCESS_KEY=wrong", "--env", "AWS_ACCESS_KEY_ID=regraft", "dataprep")
    assert running.compose.fails(*wrong, "python", "-c", read)


def test_a_job_keeps_what_it_makes_on_the_s3_server(running: Deployed, undisturbed: dict[str, Any]) -> None:
    """The same weights; and what the API hands out of the bucket is what lies in it."""
    running.compose.configure(
        COMPOSE_PROFILES="s3",
        REGRAFT_STORAGE_URI="s3://regraft/artifacts",
        AWS_ENDPOINT_URL="http://s3:8333",
        AWS_REGION="us-east-1",
    )
    running.up()
    running.compose("exec", "-T", "worker", "regraft", "doctor")
    ended = running.await_end(running.run_readme_job())
    assert ended["status"] == "succeeded", ended["message"]
    uris = {stage["name"]: stage["result"].get("uri", "") for stage in ended["stages"]}
    assert all(uris[name].startswith("s3://regraft/artifacts/") for name in ("prepare", "convert", "train"))
    sums = S3 + "import hashlib; print(hashlib.sha256(bucket.cat('%s')).hexdigest())"
    there = sums % f"{uris['train'].removeprefix('s3://')}/model.safetensors"
    assert running.compose("exec", "-T", "dataprep", "python", "-c", there).strip() == running.weights(undisturbed)
