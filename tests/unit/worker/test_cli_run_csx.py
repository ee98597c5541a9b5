"""`regraft run CSX` on the double of an appliance: what the client is told, what is refused, how it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from appliance.install import Appliance, install
from helpers import eventually
from regraft.cli import make_app
from regraft.errors import InvalidInputError
from regraft.processes import is_gone
from regraft_worker.cerebras.states import ApplianceError
from zoo_runs import FLAT, TRAINER, changed, here

Site = Callable[..., Appliance]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    """An appliance of a release and the settings of a site that has it; the data is in the current folder."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here(tmp_path)

    def make(release: str, *, settings: Mapping[str, str] | None = None, **asked: Any) -> Appliance:
        made = install(tmp_path / "appliance", release=release, **asked)
        usual = {"MGMT_ADDRESS": "cluster:443", "MGMT_NAMESPACE": "job-operator", "MOUNT_DIRS": str(tmp_path)}
        usual |= {"CLIENT": str(made.client), "RELEASE": release, "CSCTL": str(made.csctl), "INTERRUPT_SECONDS": "10"}
        for name, value in {**usual, **(settings or {})}.items():
            monkeypatch.setenv(f"REGRAFT_CEREBRAS_{name}", value)
        return made

    return make


def run(params: Path, *words: str, mode: str = "train") -> Result:
    return CliRunner().invoke(make_app(), ["run", "CSX", "-p", str(params), "-m", mode, "-o", "out", *words])


def refused(params: Path, *words: str, mode: str = "train") -> InvalidInputError:
    error = run(params, *words, mode=mode).exception
    assert isinstance(error, InvalidInputError), error
    return error


def trainer_file(folder: Path, **init: Mapping[str, object]) -> Path:
    """The trainer form's file without its checkpoint, with sections of `trainer.init` replaced."""
    content = yaml.safe_load(TRAINER.read_text())
    del content["trainer"]["fit"]["ckpt_path"]
    content["trainer"]["init"]["backend"] = {"backend_type": "CSX"}
    content["trainer"]["init"] |= init
    path = folder / "trainer.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_flat_file_runs_with_the_flags_of_run_py(site: Site, tmp_path: Path) -> None:
    appliance = site("1.9")
    words = ["--mount_dirs", "data", str(tmp_path), "-job_labels", "team=news", "k=v", "--job_priority", "p1"]
    done = run(FLAT, *words, "--max_steps", "4")
    assert (done.exit_code, done.exception) == (0, None)
    assert "| Train Device=CSX, Step=4, Loss=" in done.stdout
    assert [path.name for path in Path("out").glob("checkpoint_*")] == ["checkpoint_4.mdl"]
    jobs = appliance.jobs(team="news", k="v")
    assert [(job["kind"], job["phase"], job["priority"]) for job in jobs] == [
        ("compile", "SUCCEEDED", "p1"),
        ("execute", "SUCCEEDED", "p1"),
    ]


def test_cszoo_is_given_a_copy_with_what_it_has_no_flag_for(site: Site, tmp_path: Path) -> None:
    appliance = site("2.10", settings={"COMPILE_DIR": "programs", "PYTHON_PATHS": str(tmp_path)})
    done = run(trainer_file(tmp_path), "--max_steps", "3", "--job_time_sec", "600", "--num_workers_per_csx", "2")
    assert (done.exit_code, done.exception) == (0, None)
    init = yaml.safe_load(Path("out/params_csx.yaml").read_text())["trainer"]["init"]
    assert init["loop"]["max_steps"] == 3
    assert init["backend"] == {
        "backend_type": "CSX",
        "cluster_config": {"job_time_sec": 600, "num_workers_per_csx": 2},
        "compile_dir": "programs",
    }
    assert Path("out/checkpoint_3.mdl").is_file()
    assert {job["time_limit"] for job in appliance.jobs()} == {600}
    assert (appliance.state / "compiled" / "programs").is_dir()


def test_exit_status_0_without_the_marker_is_no_success(site: Site, tmp_path: Path) -> None:
    site("2.4", no_marker=True)
    error = run(trainer_file(tmp_path), "--max_steps", "1").exception
    assert isinstance(error, ApplianceError)
    assert "training is complete" in error.message


def test_compiling_only_submits_no_run(site: Site, tmp_path: Path) -> None:
    appliance = site("2.4")
    assert run(trainer_file(tmp_path), "--compile_only").exit_code == 0
    assert [(job["kind"], job["phase"]) for job in appliance.jobs()] == [("compile", "SUCCEEDED")]


def test_the_clients_error_is_the_commands(site: Site, tmp_path: Path) -> None:
    site("2.2", failures=[{"class": "ApplianceCompilationError", "where": "compile"}])
    error = run(changed(tmp_path, optimizer=NEWER, runconfig={})).exception
    assert isinstance(error, ApplianceError)
    assert (error.reason, error.reason_class) == ("compilation_failed", "user_error")


# The same schedule in the words of 2.0 and later.
NEWER = {
    "weight_decay_rate": None,
    "weight_decay": 0.1,
    "learning_rate": [{"scheduler": "Constant", "learning_rate": 1.0e-3}],
}


def test_a_machine_without_a_client_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site("2.4", settings={"CLIENT": ""})
    assert refused(FLAT).field == "REGRAFT_CEREBRAS_CLIENT"
    monkeypatch.setenv("REGRAFT_CEREBRAS_CLIENT", "/no/such/cszoo")
    assert "/no/such/cszoo" in refused(FLAT).message


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--num_csx", "3"], "train_input.batch_size"),
        (["--num_csx", "0"], "--num_csx"),
        (["--mount_dirs", "/no/such/folder"], "--mount_dirs"),
        (["--python_paths", "/no/such/folder"], "--python_paths"),
        (["--mount_dirs", "train"], "train_input.data_dir"),
        (["--credentials_path", "no.crt"], "--credentials_path"),
        (["--checkpoint_path", "no.mdl"], "--checkpoint_path"),
        (["--job_labels", "team"], "--job_labels"),
        (["--job_priority", "p0"], "--job_priority"),
        (["--compile_only", "--validate_only"], "--validate_only"),
        (["--load_checkpoint_states", "model"], "--load_checkpoint_states"),
        (["--dist_backend", "nccl"], "--dist_backend"),
    ],
)
def test_flags_and_places_are_checked_before_anything_starts(site: Site, words: list[str], field: str) -> None:
    appliance = site("1.9")
    assert refused(FLAT, *words).field == field
    assert not appliance.jobs()
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"runconfig": {"num_cs2": 1}}, "runconfig.num_cs2"),
        ({"runconfig": {"job_labels": ["team"]}}, "runconfig.job_labels"),
        ({"train_input": {"shufle": True}}, "train_input.shufle"),
        ({"train_input": {"data_dir": "absent"}}, "train_input.data_dir"),
        ({"extra": {"a": 1}}, "the params file.extra"),
    ],
)
def test_a_flat_file_is_checked(site: Site, tmp_path: Path, sections: dict[str, Any], field: str) -> None:
    site("1.9")
    assert refused(changed(tmp_path, **sections)).field == field


def test_a_trainer_file_is_checked(site: Site, tmp_path: Path) -> None:
    site("2.4")
    wrong = trainer_file(tmp_path, backend={"cluster_config": {"mount_dir": ["/data"]}})
    error = refused(wrong)
    assert error.field == "trainer.init.backend.cluster_config.mount_dir"
    assert error.remedy == "Did you mean mount_dirs?"


def test_a_file_of_another_form_and_a_site_without_an_address_are_refused(site: Site, tmp_path: Path) -> None:
    site("2.4", settings={"MGMT_ADDRESS": ""})
    assert refused(FLAT).field == "--params"
    assert refused(trainer_file(tmp_path)).field == "--mgmt_address"


@pytest.mark.parametrize("sigint", ["cancels", "ignored"])
def test_sigterm_ends_the_jobs_too(site: Site, tmp_path: Path, sigint: str) -> None:
    appliance = site("2.4", settings={"INTERRUPT_SECONDS": "1"}, queue_seconds=3600, sigint=sigint)
    child = started(trainer_file(tmp_path))
    eventually(appliance.jobs, what="a job in the queue")
    child.terminate()
    _, errors = child.communicate(timeout=30)
    (job,) = appliance.jobs()
    assert (child.returncode, job["phase"]) == (1, "CANCELLED")
    assert f"jobs of the cluster that have ended: {job['id']}" in errors
    assert job.get("cancels", 0) == (0 if sigint == "cancels" else 1)


def test_the_client_dies_with_the_command(site: Site, tmp_path: Path) -> None:
    appliance = site("2.4", queue_seconds=3600, lease_seconds_real=1.0)
    child = started(trainer_file(tmp_path))
    (job,) = eventually(appliance.jobs, what="a job in the queue")
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=30)
    eventually(lambda: is_gone(job["client"]), what="the end of the client")
    eventually(lambda: appliance.jobs()[0]["phase"] == "CANCELLED", what="the end of the lease")


def started(params: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "regraft", "run", "CSX", "-p", str(params), "-m", "train", "-o", "out"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
