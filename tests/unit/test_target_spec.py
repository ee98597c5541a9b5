"""The target of a job: devices here, or a Cerebras cluster with options of its own."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from regraft.cerebrassite import CerebrasSite
from regraft.doctor import cerebras as look_at_cerebras
from regraft.specs import AnyTarget, CerebrasTargetSpec, TargetSpec, TrainTask
from regraft.specs.target import without_tags

TARGET: TypeAdapter[Any] = TypeAdapter(AnyTarget)


def faults(target: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        TARGET.validate_python(target)
    return {".".join(map(str, without_tags(("target", *e["loc"])))): e["msg"] for e in caught.value.errors()}


def test_the_kind_says_which_options_there_are() -> None:
    cluster = TARGET.validate_python({"kind": "cerebras", "release": "2.10", "num_csx": 2})
    assert isinstance(cluster, CerebrasTargetSpec)
    assert (cluster.release, cluster.num_csx, cluster.distributed) == ("2.10", 2, False)
    assert type(TARGET.validate_python({"kind": "gpu", "devices": 8})) is TargetSpec
    assert "target.num_csx" in faults({"kind": "gpu", "num_csx": 2})


@pytest.mark.parametrize(
    ("option", "value"),
    [("release", "2.11"), ("release", "1.7"), ("devices", 8), ("preflight", "run"), ("evaluate_on", "cerebras")],
)
def test_what_a_cluster_has_not_is_refused_by_name(option: str, value: object) -> None:
    (where,) = faults({"kind": "cerebras", option: value})
    assert where == f"target.{option}"


def test_a_release_is_a_text() -> None:
    assert "valid string" in faults({"kind": "cerebras", "release": 2.1})["target.release"]


def test_it_survives_the_way_to_a_stage() -> None:
    target = CerebrasTargetSpec(kind="cerebras", preflight="compile", priority="p1")
    task = TrainTask.model_validate(
        {"dataset_uri": "d", "checkpoint_uri": "c", "training": {}, "target": target, "output_uri": "o"}
    )
    assert TrainTask.model_validate_json(task.model_dump_json(by_alias=True)).target == target


def test_a_site_says_what_it_lacks(tmp_path: Path) -> None:
    client = tmp_path / "cszoo"
    client.write_text("#!/bin/sh\n")
    client.chmod(0o755)
    assert "REGRAFT_CEREBRAS_CLIENT is not set" in CerebrasSite().missing()
    whole = {"client": str(client), "release": "2.4", "csctl": str(client), "mount_dirs": str(tmp_path)}
    assert CerebrasSite.model_validate(whole).missing() == []
    for name, value in {"client": "/nowhere/cszoo", "csctl": "/nowhere/csctl", "mount_dirs": "/nowhere"}.items():
        (said,) = CerebrasSite.model_validate({**whole, name: value}).missing()
        assert "/nowhere" in said
    assert CerebrasSite.model_validate({**whole, "client": "/bin/sh /nowhere/run.py"}).missing()


@pytest.mark.parametrize(
    ("script", "state", "said"),
    [
        ("exit 0", "ok", "answers"),
        ("echo no route >&2; exit 1", "warning", "no route"),
        ("sleep 9", "warning", "0.2 s"),
    ],
)
def test_the_doctor_asks_the_cluster(script: str, state: str, said: str, tmp_path: Path) -> None:
    csctl = tmp_path / "csctl"
    csctl.write_text(f"#!/bin/sh\n{script}\n")
    csctl.chmod(0o755)
    site = CerebrasSite(
        client=str(csctl), release="2.4", csctl=str(csctl), ask_seconds=0.2 if "sleep" in script else 20
    )
    finding = look_at_cerebras(site)
    assert finding.state == state
    assert said in finding.message
    assert look_at_cerebras(CerebrasSite(client="/nowhere/cszoo")).state == "failed"
