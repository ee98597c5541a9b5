"""Stages in the pods of a Kubernetes Job, against a double of the API server that runs pods as processes here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cluster_stages import LONG, POD, TASK, on_cluster, runtime, stage
from tiny_runs import contents, task, write_dataset, write_model

import trainer_double
from helpers import eventually, plant
from kubernetes_double import TOKEN, Double, kubernetes_double
from regraft.child import LEAVE
from regraft.errors import InvalidInputError
from regraft.ports import NullProgress
from regraft.specs import TargetSpec
from regraft.storage import Mirror, publish
from regraft_worker import launch
from regraft_worker.kubernetes import objects, trainjob
from regraft_worker.kubernetes.objects import Run
from regraft_worker.kubernetes.options import Options
from regraft_worker.kubernetes.output import MARK
from regraft_worker.kubernetes.run import HungError, run
from regraft_worker.trainer.folders import steps_in
from regraft_worker.trainer.targets import kubernetes
from s3_server import s3_server

HOLD = """
import time
from pathlib import Path
from regraft.storage import Mirror

def held(self, folder, **options):
    while folder.name == "step-00000030" and not Path({go_on!r}).exists():
        time.sleep(0.05)
    publish(self, folder, **options)

publish, Mirror.publish = Mirror.publish, held
"""
"""In a pod: the run does not end, for its third checkpoint is not sent, until there is a file."""
DOCUMENTATION = Path(__file__).parents[3] / "docs" / "kubernetes.md"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base")
    write_dataset(folder / "dataset")
    return folder


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(POD))
    return path


@pytest.fixture
def cluster(tmp_path: Path, template: Path) -> Iterator[tuple[Double, dict[str, str]]]:
    (tmp_path / "cluster").mkdir()
    with kubernetes_double(tmp_path / "cluster") as (double, environment):
        own = {"POD": str(template), "DEVICE": "cpu", "NODE_DEVICES": "1", "NODES": "2"}
        yield double, {**environment, **{f"REGRAFT_KUBERNETES_{name}": value for name, value in own.items()}}


def test_two_pods_that_share_no_disk_lose_a_node_and_end_with_the_bits_of_two_processes_here(
    inputs: Path,
    cluster: tuple[Double, dict[str, str]],
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    double, environment = cluster
    pod, go_on = yaml.safe_load(template.read_text()), tmp_path / "go on"
    planted = plant(tmp_path, HOLD.format(go_on=str(go_on)))
    pod["spec"]["containers"][0]["env"].append({"name": "PYTHONPATH", "value": str(planted)})
    template.write_text(yaml.safe_dump(pod))
    (tmp_path / "s3").mkdir()
    options = {"max_steps": 60, "checkpoint": {"every_steps": 10, "keep_last": 2}, "evaluate": {"every_steps": 30}}
    with s3_server(tmp_path / "s3", bucket="regraft") as keys:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        mirror = Mirror("s3://regraft/root", tmp_path / "here")
        for kind, name in (("datasets", "dataset"), ("checkpoints", "base")):
            with publish(mirror.folder / kind / "one", kind="dataset") as draft:
                shutil.copytree(inputs / name, draft.folder, dirs_exist_ok=True)
            mirror.publish(mirror.folder / kind / "one")
        asked = json.loads(on_cluster(inputs, "s3://regraft/root/jobs/j/train", devices=2, **options))
        asked |= {
            "dataset_uri": "s3://regraft/root/datasets/one",
            "checkpoint_uri": "s3://regraft/root/checkpoints/one",
        }
        environment |= {"REGRAFT_STORAGE_URI": "s3://regraft/root"}
        with stage(json.dumps(asked), environment, epoch=1) as first:
            first.await_lines("artifact", 2)
            double.lose_node(1)
            lost = first.ended()
            assert (lost["type"], lost["reason_class"]) == ("error", "infrastructure"), lost
        go_on.touch()
        with stage(json.dumps(asked), environment, epoch=2) as second:
            result = second.ended()["result"]
            said = [event["message"] for event in second.of("event")]
        assert any("going on from step" in message for message in said)
        assert result["uri"] == "s3://regraft/root/jobs/j/train/step-00000060"
        assert mirror.fetch(result["uri"])

    here = task(inputs, tmp_path / "alone", **options)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = launch.train(here.model_copy(update={"target": TargetSpec(kind="cpu", devices=2)}))
    assert contents(mirror.path(result["uri"])) == contents(tmp_path / "alone" / f"step-{alone.step:08d}")

    jobs = [made for made in double.created if made["kind"] == "Job"]
    assert [made["metadata"]["name"] for made in jobs] == ["job-1-train-1", "job-1-train-2"]
    spec = jobs[0]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    assert spec["template"]["spec"]["nodeSelector"] == {"gpu": "h100"}
    services = [made for made in double.created if made["kind"] == "Service"]
    assert [made["spec"]["clusterIP"] for made in services] == ["None", "None"]
    assert set(double.services) == {"job-1-train-2"}, "the first one went with its Job"
    check_requests(double, documented_rights())


def check_requests(double: Double, rights: list[dict[str, str]]) -> None:
    allowed = {(rule["verb"], rule["resource"]) for rule in rights}
    verbs = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
    assert {(verbs[verb], kind) for verb, kind in double.requests} <= allowed


def documented_rights(of: int = 0) -> list[dict[str, str]]:
    """A table of docs/kubernetes.md: of Jobs, or 1, of TrainJobs."""
    rules = yaml.safe_load(DOCUMENTATION.read_text().split("```yaml\nrules:")[1 + of].split("```")[0])
    pairs = [(verb, one) for rule in rules for one in rule["resources"] for verb in rule["verbs"]]
    return [{"verb": verb, "resource": one} for verb, one in pairs]


def test_a_job_outlives_its_worker_and_ends_with_its_stage(
    inputs: Path, cluster: tuple[Double, dict[str, str]], tmp_path: Path
) -> None:
    double, environment = cluster
    run = tmp_path / "run"
    given = on_cluster(inputs, str(run), **LONG)
    with stage(given, environment, epoch=1) as killed:
        killed.await_lines("step", 20)
    (name,) = double.jobs
    uid = double.jobs[name]["metadata"]["uid"]

    with stage(given, environment, epoch=2) as leaves:
        leaves.await_lines("step", 20)
        assert "is taken over" in leaves.of("event")[0]["message"]
        assert double.jobs[name]["metadata"]["labels"][objects.EPOCH] == "2"
        leaves.process.send_signal(LEAVE)
        assert leaves.ended()["type"] == "stopped"
    assert double.jobs[name]["metadata"]["annotations"][objects.WATCHED] > "2"
    with stage(given, environment, epoch=1) as late:
        assert late.ended()["reason"] == "lease_lost", "an attempt of before touches nothing"

    with stage(given, environment, epoch=3) as stopped:
        stopped.await_lines("step", 20)
        newest = max(line["step"] for line in leaves.of("step"))
        told = min(line["step"] for line in stopped.of("step"))
        assert told == newest + 1, "after a clean leave nothing is told twice and nothing is lost"
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.ended()["type"] == "stopped"
    assert double.jobs == {}
    assert [made["metadata"]["uid"] for made in double.created] == [uid], "one Job, taken over twice"
    last = max(line["step"] for line in stopped.of("step"))
    assert max(step for step, _ in steps_in(run)) >= last, "it saved before it ended"


def test_a_job_waits_in_its_queue_and_an_api_server_that_is_away_is_borne(
    inputs: Path, cluster: tuple[Double, dict[str, str]], tmp_path: Path
) -> None:
    double, environment = cluster
    environment["REGRAFT_KUBERNETES_QUEUE"] = "team-a"
    with stage(
        on_cluster(inputs, str(tmp_path / "run"), max_steps=400, evaluate={"every_steps": None}), environment
    ) as one:
        eventually(lambda: double.jobs, what="the Job")
        (job,) = double.jobs.values()
        assert job["spec"]["suspend"] is True
        assert job["metadata"]["labels"][objects.QUEUE] == "team-a"
        assert double.pods == {}
        double.admit()
        one.await_lines("step", 5)
        double.out_of_order = True
        eventually(lambda: any("out of sight" in event["message"] for event in one.of("event")), what="the word")
        assert one.process.poll() is None
        double.out_of_order = False
        assert one.ended()["type"] == "result", one.lines[-1]
    assert {line["step"] for line in one.of("step")} == set(range(1, 401))


def test_a_pod_that_hangs_is_ended_and_a_server_that_is_away_is_no_silence(
    cluster: tuple[Double, dict[str, str]], template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, environment = cluster
    hangs = yaml.safe_load(template.read_text())
    hangs["spec"]["containers"][0]["command"] = ["sh", "-c", f'echo \'{MARK}{{"type": "alive"}}\'; exec sleep 60']
    template.write_text(yaml.safe_dump(hangs))
    for name, value in {**environment, "REGRAFT_HANG_SECONDS": "2"}.items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run, "train", TASK, devices=1, progress=NullProgress(), options=Options.of(os.environ))
        eventually(lambda: double.pods, what="the pod")
        double.out_of_order = True
        time.sleep(3)  # longer than a pod may be silent
        assert not ended.done()
        double.out_of_order = False
        with pytest.raises(HungError) as caught:
            ended.result(60)
    assert (caught.value.reason, caught.value.reason_class) == ("no_progress", "infrastructure")
    assert double.jobs == {}


def test_where_there_is_a_runtime_a_stage_becomes_a_train_job(
    inputs: Path, cluster: tuple[Double, dict[str, str]], tmp_path: Path
) -> None:
    double, environment = cluster
    double.runtime = runtime()
    environment |= {"REGRAFT_KUBERNETES_POD": "", "REGRAFT_KUBERNETES_RUNTIME": "ClusterTrainingRuntime/regraft"}
    environment["REGRAFT_KUBERNETES_QUEUE"] = "team-a"
    given = on_cluster(inputs, str(tmp_path / "run"), **LONG)
    with stage(given, environment, epoch=1) as killed:
        eventually(lambda: double.jobs, what="the TrainJob")
        assert double.pods == {}, "it is suspended until its queue has room"
        double.admit()
        killed.await_lines("step", 5)
    with stage(given, environment, epoch=2) as stopped:
        stopped.await_lines("step", 5)
        assert "is taken over" in stopped.of("event")[0]["message"]
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.ended()["type"] == "stopped"
    assert double.jobs == {}
    (made,) = double.created
    spec, told = made["spec"], {one["name"]: one["value"] for one in made["spec"]["trainer"]["env"]}
    assert (made["kind"], made["metadata"]["labels"][objects.QUEUE], spec["suspend"]) == ("TrainJob", "team-a", True)
    assert spec["runtimeRef"]["kind"] == "ClusterTrainingRuntime"
    assert told["REGRAFT_MASTER"] == "job-1-train-1-node-0-0.job-1-train-1"
    assert not any(name.startswith("REGRAFT_CACHE") for name in told), "the runtime's own would be hidden"
    check_requests(double, documented_rights(1))


def test_what_is_wrong_is_said_in_the_words_of_the_core(
    inputs: Path, cluster: tuple[Double, dict[str, str]], tmp_path: Path
) -> None:
    given = json.loads(on_cluster(inputs, str(tmp_path / "run"))) | {"checkpoint_uri": str(tmp_path / "nowhere")}
    with stage(json.dumps(given), cluster[1]) as one:
        error = one.ended()
    assert (error["type"], error["reason_class"]) == ("error", "user_error")
    assert "nowhere" in str(error["value"])


def test_what_does_not_fit_the_schemas_and_who_may_not_is_refused(
    cluster: tuple[Double, dict[str, str]], template: Path, inputs: Path, tmp_path: Path
) -> None:
    double, environment = cluster
    wrong = yaml.safe_load(template.read_text())
    wrong["spec"]["containers"][0]["imagePullPolice"] = "Always"  # the planted error
    template.write_text(yaml.safe_dump(wrong))
    with stage(on_cluster(inputs, str(tmp_path / "run")), environment) as one:
        error = one.ended()
    assert error["reason"] == "kubernetes_refused"
    assert "imagePullPolice" in error["message"]
    Path(environment["REGRAFT_KUBERNETES_ACCOUNT"], "token").write_text(TOKEN[:-1])
    with stage(on_cluster(inputs, str(tmp_path / "run")), environment) as one:
        assert "(401)" in one.ended()["message"]
    assert double.created == []


@pytest.mark.parametrize("planted", ["", "toleration"])
def test_the_documented_template_and_runtime_make_valid_jobs(tmp_path: Path, planted: str) -> None:
    blocks = re.findall("```yaml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    (template,) = (block for block in blocks if block.startswith("# the template"))
    (trainer,) = (block for block in blocks if "kind: TrainingRuntime" in block)
    path = tmp_path / "pod.yaml"
    path.write_text(template.replace("tolerations", planted) if planted else template)
    asked = Run(stage="train", stage_id="job-1.train", epoch=1, task=TASK, nodes=2, devices=8, environment={})
    made = objects.job(asked, Options(pod=path))
    if planted:
        with pytest.raises(kubernetes_validate.ValidationError, match=planted):
            kubernetes_validate.validate(made, "1.31", strict=True)
        return
    kubernetes_validate.validate(made, "1.31", strict=True)
    whole = trainjob.train_job(asked, Options(runtime="regraft"))
    jsonschema.validate(whole, trainer_double.SCHEMA)
    whole["metadata"]["uid"] = "1"
    (step,) = yaml.safe_load(trainer)["spec"]["template"]["spec"]["replicatedJobs"]
    made = trainer_double.child(whole, step["template"]["spec"]["template"])
    kubernetes_validate.validate(made, "1.31", strict=True)
    assert {"name": "REGRAFT_NODES", "value": "2"} in made["spec"]["template"]["spec"]["containers"][0]["env"]


def test_a_worker_offers_what_its_operator_has_set(
    cluster: tuple[Double, dict[str, str]], template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kubernetes.available()["available"] is False
    for name, value in {**cluster[1], "REGRAFT_KUBERNETES_NODE_DEVICES": "8"}.items():
        monkeypatch.setenv(name, value)
    assert kubernetes.available()["devices"] == 16
    options = Options.of(os.environ)
    assert [options.nodes_for(count) for count in (1, 8, 10, 16)] == [(1, 1), (1, 8), (2, 5), (2, 8)]
    for count, message in ((9, "divided evenly"), (17, "not so many")):
        with pytest.raises(InvalidInputError, match=message) as caught:
            options.nodes_for(count)
        assert caught.value.field == "target.devices"
    monkeypatch.setenv("REGRAFT_KUBERNETES_RUNTIME", "regraft")
    assert "REGRAFT_KUBERNETES_POD is set as well" in str(kubernetes.available()["why"])
    monkeypatch.setenv("REGRAFT_KUBERNETES_POD", "")
    assert kubernetes.available()["devices"] == 16
    for wrong in ("PyTorchJob/regraft", "TrainingRuntime/"):
        monkeypatch.setenv("REGRAFT_KUBERNETES_RUNTIME", wrong)
        assert wrong in str(kubernetes.available()["why"])
    monkeypatch.delenv("REGRAFT_KUBERNETES_RUNTIME")
    monkeypatch.setenv("REGRAFT_KUBERNETES_POD", str(template))
    template.write_text("spec: {containers: [{name: other, image: x}]}")
    assert "container `regraft`" in str(kubernetes.available()["why"])
    monkeypatch.setenv("REGRAFT_STORAGE_URI", "s3://x/y")
    going_back = {
        "target": {"kind": "kubernetes", "devices": 16, "strategy": "auto"},
        "training": {"loss_spike": {"policy": "roll_back"}},
    }
    with pytest.raises(InvalidInputError, match="cannot go back"):
        kubernetes.run_stage("train", going_back, None)  # type: ignore[arg-type]
