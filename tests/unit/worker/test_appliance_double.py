"""The double of a Cerebras appliance does what is known of the real one: what tests of the target rely on."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance import client, csctl
from appliance.board import Board
from appliance.errors import MESSAGES
from appliance.install import Appliance, install
from appliance.kinds import BadParamsError
from appliance.schema import check
from helpers import eventually
from regraft.errors import InvalidDataError
from regraft_worker.conversion.opened import open_checkpoint
from zoo_runs import ASSETS, CONVERTED, FLAT, TRAINER, here

RECORDED = json.loads((ASSETS / "train" / "train_20steps.json").read_text())["loss"]
LOSS = re.compile(r"\| Train Device=CSX, Step=(\d+), Loss=([\w.]+),")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here(tmp_path)
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def flat(release: str, **sections: dict[str, Any]) -> Path:
    """The recorded file in a release's words, with the cluster's settings."""
    content = yaml.safe_load(FLAT.read_text())
    cluster = {"mgmt_address": "a:1", "mount_dirs": [str(Path.cwd())], "job_labels": ["job=1"]}
    content["runconfig"] |= {**cluster, "checkpoint_path": str(CONVERTED)}
    if release >= "2.0":
        content["runconfig"]["load_checkpoint_states"] = "model"
        content["optimizer"]["weight_decay"] = content["optimizer"].pop("weight_decay_rate")
        for part in content["optimizer"]["learning_rate"]:
            part |= {"total_iters": part.pop("steps")} if "steps" in part else {}
    else:
        content["runconfig"]["is_pretrained_checkpoint"] = True
    if release != "1.8":
        for name in ("train_input", "eval_input"):
            del content[name]["max_sequence_length"]
    for name, keys in sections.items():
        content[name] |= keys
    path = Path(f"params_{release}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def trainer(**fit: Any) -> Path:
    content = yaml.safe_load(TRAINER.read_text())
    init = content["trainer"]["init"]
    init["backend"] = {
        "backend_type": "CSX",
        "cluster_config": {"mgmt_address": "a:1", "mount_dirs": [str(Path.cwd())], "job_labels": ["job=1"]},
    }
    content["trainer"]["fit"] |= {"ckpt_path": str(CONVERTED), **fit}
    path = Path("params.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def run_py(appliance: Appliance, path: Path, *words: str) -> int:
    return client.main("run.py", appliance.state, ["CSX", "-p", str(path), "-m", "train", *words])


def fit(appliance: Appliance, path: Path, *words: str) -> int:
    return client.main("cszoo", appliance.state, ["fit", str(path), *words])


def phases(appliance: Appliance) -> list[tuple[str, str]]:
    return [(job["kind"], job["phase"]) for job in appliance.jobs()]


@pytest.mark.parametrize(("release", "end"), [("1.9", 20), ("2.10", 3)])
def test_losses_are_the_recorded_ones_and_lines_the_releases(
    release: str, end: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    appliance = install(tmp_path / "appliance", release=release, split_lines=release == "2.10")
    if release == "1.9":
        assert run_py(appliance, flat(release)) == 0
    else:
        path = trainer()
        path.write_text(path.read_text().replace("max_steps: 20", "max_steps: 3"))
        assert fit(appliance, path) == 0
    said = capsys.readouterr().out
    found = [(int(step), float(loss)) for step, loss in LOSS.findall(said)]
    assert [step for step, _ in found] == [*range(1, end + 1)]
    assert max(abs(loss - wanted) for (_, loss), wanted in zip(found, RECORDED, strict=False)) < 1e-5
    assert ("TimeRemaining=" in said) == (release == "2.10")
    assert "samples/sec, GlobalRate=" in said
    assert said.rstrip().endswith("ompleted Successfully!" if release == "1.9" else "completed successfully!")
    assert [path.name for path in Path("model_dir").glob(f"*_{end}.mdl")] == [f"checkpoint_{end}.mdl"]
    meta = json.loads(Path("model_dir/cerebras_logs/run_meta.json").read_text())
    ids = [entry["id"] for name in ("compile_jobs", "execute_jobs") for entry in meta[name]]
    assert ids == [job["id"] for job in appliance.jobs(job="1")]
    assert all(f"Job id: {job}, workflow id: wflow-" in said for job in ids)


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    appliance = install(tmp_path / "appliance", release="2.2")
    assert run_py(appliance, flat("2.2", runconfig={"max_steps": 2})) == 0
    on = {"checkpoint_path": "model_dir/checkpoint_2.mdl", "load_checkpoint_states": None, "max_steps": 4}
    assert run_py(appliance, flat("2.2", runconfig=on)) == 0
    found = [(int(step), float(loss)) for step, loss in LOSS.findall(capsys.readouterr().out)]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert max(abs(loss - wanted) for (_, loss), wanted in zip(found, RECORDED, strict=False)) < 1e-5
    assert len(json.loads(Path("model_dir/cerebras_logs/run_meta.json").read_text())["execute_jobs"]) == 2


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_every_error_ends_the_client_with_its_class(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    appliance = install(tmp_path / "appliance", failures=[{"class": name, "where": "compile"}])
    assert fit(appliance, trainer()) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"cerebras.appliance.errors.{name}: ")
    assert phases(appliance) == [("compile", "FAILED")]


def test_a_loss_that_is_nan_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    appliance = install(tmp_path / "appliance", nan_at_step=2)
    assert fit(appliance, trainer()) == 1
    said = capsys.readouterr()
    assert LOSS.findall(said.out)[-1] == ("2", "nan")
    assert "ApplianceNanError" in said.err
    assert phases(appliance)[-1] == ("execute", "FAILED")


@pytest.mark.parametrize(("back", "status"), [(0.1, 0), (30.0, 1)])
def test_a_lost_connection_is_waited_for(
    back: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    appliance = install(tmp_path / "appliance", drop_at_step=2, drop_seconds_real=back, retry_seconds_real=0.5)
    path = trainer()
    path.write_text(path.read_text().replace("max_steps: 20", "max_steps: 3"))
    assert fit(appliance, path) == status
    assert ("ApplianceServiceInterrupted" in capsys.readouterr().err) == (status == 1)


def test_a_half_written_checkpoint_lies_in_place_before_release_2_6(tmp_path: Path) -> None:
    appliance = install(tmp_path / "appliance", release="2.2", hold_checkpoint=1)
    words = shlex.split(f"{appliance.client} CSX -p {flat('2.2', runconfig={'max_steps': 1})} -m train")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as child:
        path = Path("model_dir/checkpoint_1.mdl")
        eventually(lambda: path.exists() and path.stat().st_size, what="half a checkpoint")
        with pytest.raises(InvalidDataError), open_checkpoint(path):
            pass
        appliance.set(hold_checkpoint=0)
        assert child.wait(timeout=30) == 0
    with open_checkpoint(path) as opened:
        assert opened.global_step == 1


def test_validating_ends_after_the_first_job(tmp_path: Path) -> None:
    appliance = install(tmp_path / "appliance", compile_seconds=60, speed=600)
    assert fit(appliance, trainer(), "--validate_only") == 0
    assert phases(appliance) == [("compile", "SUCCEEDED")]


def test_other_versions_namespaces_and_places_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    appliance = install(tmp_path / "appliance", server_version="2.9")
    assert fit(appliance, trainer()) == 1
    assert "ApplianceVersionError" in capsys.readouterr().err
    appliance.set(server_version="2.10", namespaces=["one", "two"])
    assert fit(appliance, trainer()) == 1
    assert "mgmt_namespace" in capsys.readouterr().err
    assert fit(appliance, trainer(), "--mgmt_namespace", "two", "--mount_dirs", "/no/such") == 1
    assert "MissingVolumeError" in capsys.readouterr().err
    assert appliance.jobs() == []


@pytest.mark.parametrize(
    ("release", "section", "keys"),
    [
        ("1.9", "runconfig", {"max_checkpoints": 3}),
        ("2.2", "runconfig", {"keep_checkpoint_max": 3}),
        ("2.2", "runconfig", {"job_labels": "a=b"}),
        ("2.2", "runconfig", {"num_csx": "1"}),
        ("2.2", "runconfig", {"autoload_last_checkpoint": 1}),
        ("1.9", "optimizer", {"weight_decay": 0.1}),
        ("2.2", "optimizer", {"learning_rate": [{"scheduler": "Constant", "steps": 1}]}),
        ("1.9", "model", {"fp16_type": "bfloat16"}),
        ("1.9", "train_input", {"max_sequence_length": [1]}),
    ],
)
def test_a_flat_file_of_another_release_is_refused(release: str, section: str, keys: dict[str, Any]) -> None:
    numbers = tuple(map(int, release.split(".")))
    content = yaml.safe_load(flat(release).read_text())
    check(content, numbers)  # type: ignore[arg-type]
    content[section] |= keys
    with pytest.raises(BadParamsError, match=next(iter(keys)) if "learning" not in str(keys) else "steps"):
        check(content, numbers)  # type: ignore[arg-type]


def test_command_lines_are_those_of_the_release(tmp_path: Path) -> None:
    path = str(flat("1.8"))
    for release, program, words in (
        ("1.8", "run.py", ["CSX", "-p", path, "-m", "train"]),
        ("1.9", "run.py", ["CSX", "weight_streaming", "-p", path, "-m", "train"]),
        ("2.2", "run.py", ["CSX", "-p", path, "-m", "train", "--is_pretrained_checkpoint"]),
        ("2.4", "cszoo", ["fit", path, "--max_steps", "3"]),
    ):
        appliance = install(tmp_path / release, release=release)
        with pytest.raises(SystemExit) as caught:
            client.main(program, appliance.state, words)
        assert caught.value.code == 2


def test_the_queue_goes_by_priority_and_nobody_is_overtaken(tmp_path: Path) -> None:
    appliance = install(tmp_path / "appliance", speed=0.0001)
    first = appliance.plant(seconds=10)
    assert phases(appliance) == [("execute", "RUNNING")]
    low, high = (appliance.plant(seconds=10, priority=priority) for priority in ("p3", "p1"))
    assert {job["id"]: job["phase"] for job in appliance.jobs()} == {first: "RUNNING", low: "QUEUED", high: "QUEUED"}
    appliance.set(speed=1e6)
    eventually(lambda: {job["phase"] for job in appliance.jobs()} == {"SUCCEEDED"}, what="the end of all")
    began = {job["id"]: job["started"] for job in appliance.jobs()}
    assert began[first] < began[high] < began[low]


def test_a_job_without_heartbeats_is_cancelled(tmp_path: Path) -> None:
    appliance = install(tmp_path / "appliance", lease_seconds_real=0.5, queue_seconds=86400, speed=86400 * 60)
    board = Board(appliance.state)
    silent, alive = board.submit("execute", systems=1), board.submit("execute", systems=1, priority="p1")

    def over() -> bool:
        board.beat(alive)
        return board.jobs()[0]["phase"] == "CANCELLED"

    eventually(over, what="the end of the lease")
    found = {job["id"]: (job["phase"], job["message"]) for job in appliance.jobs()}
    assert found[silent] == ("CANCELLED", "lost the heartbeat of the client")
    assert found[alive] == ("RUNNING", "")  # a day in the queue has passed


def asked(appliance: Appliance, capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str]:
    status = csctl.main(appliance.state, shlex.split(words))
    said = capsys.readouterr()
    return status, said.out + said.err


def test_csctl_lists_labels_and_cancels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    appliance = install(tmp_path / "appliance", queue_seconds=3600)
    board = Board(appliance.state)
    job = board.submit("execute", labels={"job": "1"}, systems=1)
    other = appliance.plant(seconds=10**6)
    table = asked(appliance, capsys, "get jobs")[1].splitlines()
    assert table[0].split()[:5] == ["NAME", "TYPE", "AGE", "DURATION", "PHASE"]
    assert (len(table), table[1].split()[0]) == (2, job)
    assert other in asked(appliance, capsys, "job list -a")[1]
    assert asked(appliance, capsys, f"label job {job} epoch=2 job-") == (0, f"job/{job} was patched\n")
    found = json.loads(asked(appliance, capsys, "get jobs -a -l epoch=2 -o json")[1])["items"]
    assert [(item["meta"]["name"], item["meta"]["labels"]) for item in found] == [(job, {"epoch": "2"})]
    assert asked(appliance, capsys, f"job set-priority {job} p1")[0] == 0
    assert asked(appliance, capsys, f"job set-priority {job} p0")[0] == 1
    assert json.loads(asked(appliance, capsys, f"get job {job} -o json")[1])["status"]["phase"] == "QUEUED"
    assert asked(appliance, capsys, f"cancel job {job}") == (0, "Job canceled successfully\n")
    assert asked(appliance, capsys, f"cancel job {job}")[0] == 1
    assert appliance.jobs()[0]["cancels"] == 2
    assert len(appliance.calls("cancel", "job")) == 2
    appliance.set(reachable=False)
    assert "Unavailable" in asked(appliance, capsys, "get jobs")[1]


def test_a_time_limit_ends_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    appliance = install(tmp_path / "appliance", release="2.2", queue_seconds=7200, speed=36000)
    assert run_py(appliance, flat("2.2", runconfig={"job_time_sec": 3600})) == 1
    assert "ApplianceRuntimeJobTimeoutError" in capsys.readouterr().err


def test_a_wrong_request_of_a_test_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        install(tmp_path / "appliance", quue_seconds=1)
