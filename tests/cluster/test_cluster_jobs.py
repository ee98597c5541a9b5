"""Stages as Jobs of a real API server and its controllers, by an account that has the documented rights only.

There is no kubelet: `kubelet_double` runs the pods. Before 1.21 a server knows no Indexed Jobs and before 1.24 no
suspended ones by default; it drops these fields, which is asserted, and the stand-in numbers the pods.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_stages import LONG, POD, on_cluster, runtime, stage
from control_plane import LAUNCHER, NAMESPACE, ControlPlane, documented, granted
from kubelet_double import Kubelet
from tiny_runs import write_dataset, write_model
from trainer_controller import TRAIN_JOBS, trainer

from helpers import eventually
from regraft.child import LEAVE
from regraft_worker.kubernetes import objects
from regraft_worker.kubernetes.options import Options

pytestmark = pytest.mark.timeout(300)
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
DENIED = [
    ("deletecollection", "batch", "jobs"),
    ("update", "batch", "jobs"),
    ("create", "batch", "cronjobs"),
    ("get", "", "services"),
    ("delete", "", "services"),
    ("watch", "", "pods"),
    ("create", "", "pods"),
    ("delete", "", "pods"),
    ("create", "", "pods/exec"),
    ("get", "", "secrets"),
    ("get", "", "configmaps"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base")
    write_dataset(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def rights(plane: ControlPlane) -> Iterator[None]:
    with granted(plane, LAUNCHER, documented("jobs")):
        yield


@pytest.fixture
def environment(plane: ControlPlane, rights: None, node: Kubelet, tmp_path: Path) -> Iterator[dict[str, str]]:
    template = tmp_path / "pod.yaml"
    template.write_text(yaml.safe_dump(POD))
    own = {"POD": str(template), "DEVICE": "cpu", "NODE_DEVICES": "1", "NODES": "2"}
    stop = {"REGRAFT_STOP_SECONDS": "20"}
    yield {
        **plane.environment("launcher"),
        **stop,
        **{f"REGRAFT_KUBERNETES_{name}": value for name, value in own.items()},
    }
    for job in listed(plane, JOBS):
        plane.admin.call("DELETE", f"{JOBS}/{job['metadata']['name']}", {"propagationPolicy": "Foreground"})
    eventually(lambda: not listed(plane, JOBS), what="the end of all Jobs")


def listed(plane: ControlPlane, path: str, label: str = "") -> list[dict[str, Any]]:
    found = plane.admin.call("GET", path + (f"?labelSelector={label}" if label else ""))
    return list(found["items"])


def test_the_documented_rights_grant_what_they_say_and_nothing_else(plane: ControlPlane, rights: None) -> None:
    for rule in documented("jobs"):
        for verb, resource in ((verb, one) for verb in rule["verbs"] for one in rule["resources"]):
            (group,) = rule["apiGroups"]
            assert plane.may(LAUNCHER, verb, group, resource), (verb, resource)
            assert not plane.may(LAUNCHER, verb, group, resource, namespace="default"), (verb, resource)
    for verb, group, resource in DENIED:
        assert not plane.may(LAUNCHER, verb, group, resource), (verb, resource)
        assert plane.may("nobody", verb, group, resource) is False
    assert plane.may("admin", "get", "", "secrets") is False, "a review is of the name; `admin` has its group only"


def test_a_job_outlives_its_worker_and_ends_with_its_stage(
    plane: ControlPlane, inputs: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    given = on_cluster(inputs, str(tmp_path / "run"), **LONG)
    with stage(given, environment, epoch=1) as killed:
        killed.await_lines("step", 20)
    (job,) = listed(plane, JOBS)
    uid = job["metadata"]["uid"]
    with stage(given, environment, epoch=2) as leaves:
        leaves.await_lines("step", 20)
        assert "is taken over" in leaves.of("event")[0]["message"]
        leaves.process.send_signal(LEAVE)
        assert leaves.ended()["type"] == "stopped"
    (job,) = listed(plane, JOBS)
    assert (job["metadata"]["uid"], job["metadata"]["labels"][objects.EPOCH]) == (uid, "2")
    assert job["metadata"]["annotations"][objects.WATCHED] > "2"
    with stage(given, environment, epoch=1) as late:
        assert late.ended()["reason"] == "lease_lost", "an attempt of before touches nothing"
    with stage(given, environment, epoch=3) as stopped:
        stopped.await_lines("step", 20)
        newest = max(line["step"] for line in leaves.of("step"))
        assert min(line["step"] for line in stopped.of("step")) > newest, "nothing is told twice after a clean leave"
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.ended()["type"] == "stopped"
    assert listed(plane, JOBS) == []
    assert listed(plane, f"{CORE}/pods", f"{objects.RUN}=job-1-train-1") == []


def test_two_pods_lose_a_node_and_the_next_attempt_ends(
    plane: ControlPlane, node: Kubelet, inputs: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    options = {"max_steps": 40, "checkpoint": {"every_steps": 10, "keep_last": 2}, "evaluate": {"every_steps": None}}
    given = on_cluster(inputs, str(tmp_path / "run"), devices=2, **options)
    with stage(given, environment, epoch=1) as first:
        first.await_lines("artifact", 1)
        (job,) = listed(plane, JOBS)
        (service,) = listed(plane, f"{CORE}/services", f"{objects.RUN}=job-1-train-1")
        next(pod for pod in node.pods.values() if pod.job == "job-1-train-1" and pod.index == 1).kill()
        lost = first.ended()
        assert (lost["type"], lost["reason_class"]) == ("error", "infrastructure"), lost
    assert service["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    kept(plane, job)
    with stage(given, environment, epoch=2) as second:
        assert second.ended()["result"]["step"] == 40
        assert any("going on from step" in event["message"] for event in second.of("event"))
    (done,) = listed(plane, JOBS)
    assert done["metadata"]["name"] == "job-1-train-2"
    names = {one["metadata"]["name"] for one in listed(plane, f"{CORE}/services")}
    assert "job-1-train-2" in names
    eventually(
        lambda: not listed(plane, f"{CORE}/services", f"{objects.RUN}=job-1-train-1"),
        what="the end of the Service that belonged to the first Job",
    )


def kept(plane: ControlPlane, job: dict[str, Any]) -> None:
    """What the server has kept of the spec: all of it, but for what its version does not know."""
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (2, 2, 0)
    assert spec.get("completionMode") == ("Indexed" if plane.version >= (1, 22) else None)
    assert spec.get("suspend") == (False if plane.version >= (1, 22) else None)
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["subdomain"], pod["nodeSelector"]) == ("Never", "job-1-train-1", {"gpu": "h100"})
    assert pod["automountServiceAccountToken"] is False


def test_where_there_is_a_runtime_a_stage_becomes_a_train_job(
    plane: ControlPlane, inputs: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    options = {"evaluate": {"every_steps": None}, "checkpoint": {"every_steps": 50, "keep_last": 2}}
    given = on_cluster(inputs, str(tmp_path / "run"), devices=2, **{**LONG, **options})
    short = on_cluster(inputs, str(tmp_path / "short"), max_steps=10, evaluate={"every_steps": None})
    environment |= {"REGRAFT_KUBERNETES_POD": "", "REGRAFT_KUBERNETES_RUNTIME": "regraft"}
    with trainer(plane.admin, runtime()), granted(plane, LAUNCHER, documented("trainjobs"), name="trainjobs"):
        with stage(given, environment, epoch=1) as killed:
            killed.await_lines("step", 10)
        (made,) = listed(plane, TRAIN_JOBS)
        with stage(given, environment, epoch=2) as stopped:
            stopped.await_lines("step", 10)
            assert "is taken over" in stopped.of("event")[0]["message"]
            (now,) = listed(plane, TRAIN_JOBS)
            assert (now["metadata"]["uid"], now["metadata"]["labels"][objects.EPOCH]) == (made["metadata"]["uid"], "2")
            stopped.process.send_signal(signal.SIGTERM)
            assert stopped.ended()["type"] == "stopped"
        assert listed(plane, TRAIN_JOBS) == listed(plane, JOBS) == [], "the Job, its pods, and the TrainJob last"
        with stage(short, environment, epoch=3) as whole:
            assert whole.ended()["result"]["step"] == 10
        (done,) = listed(plane, TRAIN_JOBS)
        plane.admin.call("DELETE", f"{TRAIN_JOBS}/{done['metadata']['name']}", {"propagationPolicy": "Foreground"})
        eventually(lambda: not listed(plane, TRAIN_JOBS), what="its end")
    spec = made["spec"]
    assert (spec["suspend"], spec["trainer"]["numNodes"], spec["runtimeRef"]["name"]) == (False, 2, "regraft")


def test_what_the_server_refuses_is_said_in_its_words(
    plane: ControlPlane, inputs: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    wrong = json.loads(json.dumps(POD))
    wrong["spec"]["containers"][0]["imagePullPolicy"] = "Sometimes"  # the planted error
    Path(environment["REGRAFT_KUBERNETES_POD"]).write_text(yaml.safe_dump(wrong))
    with stage(on_cluster(inputs, str(tmp_path / "run")), environment) as one:
        error = one.ended()
    assert error["reason"] == "kubernetes_refused"
    assert "(422)" in error["message"] and "Sometimes" in error["message"]
    elsewhere = {**environment, "REGRAFT_KUBERNETES_NAMESPACE": "default"}
    with stage(on_cluster(inputs, str(tmp_path / "run")), elsewhere) as one:
        assert "(403)" in one.ended()["message"]
    assert listed(plane, JOBS) == []
    assert Options.of(environment).namespace == NAMESPACE
