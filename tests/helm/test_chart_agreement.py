"""The chart agrees with the project (settings, commands, metrics, queries), and its documents with the chart."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from chart_rendering import CHART, NAMESPACE, SETS, Manifest, Rendered, container, rendered, variables
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text
from typer.main import get_command

from helpers import key_for, spec
from regraft import jobs as rules
from regraft.cerebrassite import CerebrasSite
from regraft.cli import make_app
from regraft.jobstore import Jobs
from regraft.plan import queue_for
from regraft.settings import Settings
from regraft.storage import local_path
from regraft_api.app import create_app

METRIC = re.compile(r"\bregraft_[a-z_]+")


@cache
def document() -> ModuleType:
    """The program that writes the chart's documents; it lies beside the chart and belongs to no distribution."""
    location = importlib.util.spec_from_file_location("chart_document", CHART.parent / "document.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def test_the_readme_is_current() -> None:
    assert (CHART / "README.md").read_text() == document().readme(), "run `python helm/document.py`"


def test_the_schema_knows_the_settings_of_today() -> None:
    assert (CHART / "values.schema.json").read_text() == document().schema(), "run `python helm/document.py`"


def test_every_value_is_described() -> None:
    text_ = (CHART / "values.yaml").read_text()
    described = {".".join(path) for path, _ in document().described(text_)}
    undescribed = [
        path for path in leaves(yaml.safe_load(text_)) if not any(above in described for above in ways(path))
    ]
    assert undescribed == []


def leaves(values: Manifest, path: str = "") -> Iterator[str]:
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value:
            yield from leaves(value, here)
        else:
            yield here


def ways(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def variables_of(found: Rendered) -> Iterator[str]:
    for one in found.all("ConfigMap"):
        yield from one["data"]
    for _, pod in found.pods():
        for one in (*pod["containers"], *pod.get("initContainers", [])):
            yield from (variable["name"] for variable in one.get("env", []))


@pytest.mark.parametrize("values", SETS)
def test_every_variable_of_ours_is_a_setting(helm: str, values: str) -> None:
    ours = {name for name in variables_of(rendered(helm, values)) if name.startswith("REGRAFT_")}
    known = {f"REGRAFT_{name.upper()}" for name in Settings.model_fields}
    known |= {f"REGRAFT_CEREBRAS_{name.upper()}" for name in CerebrasSite.model_fields}
    assert len(ours) > 5
    assert ours <= known


def test_settings_of_the_config_map_are_accepted(helm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rendered(helm, "everything").one("ConfigMap", "rg")["data"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.lease_seconds, settings.max_body_bytes, settings.check_files) == (60, 1048576, True)
    assert settings.storage_root == "file:///var/lib/regraft/storage"
    assert settings.roots == (Path("/data"), Path("/models"))


def test_the_cerebras_pool_is_a_client_of_the_cluster_that_its_values_name(
    helm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rendered(helm, "cerebras")
    given = variables(container(found.pod("Deployment/regraft-worker-cerebras")))
    for name, value in {**found.one("ConfigMap", "regraft")["data"], **given}.items():
        if name.startswith("REGRAFT_") and isinstance(value, str):
            monkeypatch.setenv(name, value)
    site, settings = CerebrasSite(), Settings()
    assert (site.client, site.release, site.csctl) == ("/software/venv/bin/cszoo", "2.10", "/usr/local/bin/csctl")
    assert (site.mgmt_address, site.mgmt_namespace) == ("cluster.cerebras.example:8443", "job-operator")
    assert site.credentials_path == "/opt/cerebras/certs/tls.crt"
    assert (site.paths, site.compile_dir, site.systems) == (("/software/modelzoo/src",), "regraft", 2)
    assert not [problem for problem in site.missing() if "not set" in problem]
    for folder in (local_path(settings.storage_root), Path(site.model_dir)):
        assert any(folder.is_relative_to(mount) for mount in site.mounts), folder
    told = {
        one["metadata"]["name"]: variables(container(one["spec"]["template"]["spec"]))
        for one in found.all("Deployment")
    }
    has = {name for name, given in told.items() if any("CEREBRAS" in variable for variable in given)}
    assert has == {"regraft-worker-cerebras"}


def test_the_claim_of_artifacts_is_mounted_where_the_cluster_knows_it(helm: str) -> None:
    found = rendered(helm, "cerebras")
    assert found.one("ConfigMap", "regraft")["data"]["REGRAFT_STORAGE_URI"] == "file:///srv/projects/regraft/storage"
    for name in ("api", "dataprep", "worker-cpu", "worker-cerebras"):
        pod = found.pod(f"Deployment/regraft-{name}")
        (volume,) = (one["name"] for one in pod["volumes"] if claim_of(one) == "nfs-artifacts")
        (mount,) = (one for one in container(pod)["volumeMounts"] if one["name"] == volume)
        assert mount["mountPath"] == "/srv/projects/regraft", name
        assert pod["securityContext"]["runAsUser"] == 4711, name  # who writes to the export


def claim_of(volume: Manifest) -> str | None:
    return (volume.get("persistentVolumeClaim") or {}).get("claimName")


@pytest.mark.parametrize("values", SETS)
def test_every_argument_list_is_a_command(helm: str, values: str) -> None:
    program = get_command(make_app())
    for name, pod in rendered(helm, values).pods():
        for one in (*pod["containers"], *pod.get("initContainers", [])):
            if "command" in one or "/regraft/" not in one["image"]:
                continue
            command = program
            assert one["args"][0] == "regraft"
            for word in one["args"][1:]:
                command = getattr(command, "commands", {}).get(word, command)
            assert not hasattr(command, "commands"), (name, one["args"])


def test_version_of_the_chart_is_that_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    projects = [*CHART.parents[1].glob("*/pyproject.toml"), *CHART.parents[1].glob("services/*/pyproject.toml")]
    versions = {re.search(r'^version = "(.*)"', path.read_text(), re.MULTILINE)[1] for path in projects}  # type: ignore[index]
    assert versions == {chart["appVersion"]}


def test_queues_that_are_scaled_on_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    made = {queue_for(stage, spec(target={"kind": "cpu"})).replace("cpu", "{}") for stage in rules.NEEDS}
    for pool in (values["dataprep"], *values["workers"].values()):
        for queue in pool["queues"]:
            stage, _, target = queue.partition(".")
            assert (f"{stage}.{{}}" if target else stage) in made


def served(settings: Settings) -> set[str]:
    """Names of all series that the API tells Prometheus of, with whatever a kind of metric adds to its name."""
    suffixes = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    with TestClient(create_app(settings)) as client:
        client.get("/healthz")
        answer = client.get("/metrics", headers=key_for(settings)).text
    families = re.findall(r"^# TYPE (\w+) (\w+)$", answer, re.MULTILINE)
    return {name + suffix for name, kind in families for suffix in suffixes.get(kind, [])}


def expressions(found: Rendered) -> Iterator[str]:
    for one in found.all("PrometheusRule"):
        for group in one["spec"]["groups"]:
            yield from (rule["expr"] for rule in group["rules"])
    for one in found.all("ScaledObject"):
        yield from (
            trigger["metadata"]["query"] for trigger in one["spec"]["triggers"] if trigger["type"] == "prometheus"
        )


def test_every_metric_that_is_asked_for_is_served(helm: str, settings: Settings) -> None:
    asked = {
        name
        for values in ("everything", "external")
        for expression in expressions(rendered(helm, values))
        for name in METRIC.findall(expression)
    }
    assert len(asked) >= 8
    assert asked <= served(settings)
    assert "regraft_queue_depth" not in served(settings)  # one that is asked for and not served would be found


def test_alerts_say_what_to_do_and_look_at_this_release_only(helm: str) -> None:
    for group in rendered(helm, "everything").one("PrometheusRule")["spec"]["groups"]:
        assert len(group["rules"]) >= 8
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert len(rule["annotations"]["description"]) > 40
            assert rule["expr"].count('namespace="training"') == len(METRIC.findall(rule["expr"]))


def test_alerts_are_those_of_the_file_with_the_thresholds_of_the_values(helm: str) -> None:
    limits = [f"metrics.prometheusRule.{name}" for name in ("unservedSeconds=61", "waitSeconds=62")]
    made = rendered(helm, "everything", *limits).one("PrometheusRule")["spec"]
    file = (CHART / "files/alerts.yaml").read_text()
    for was, now in (('job="regraft"', f'namespace="{NAMESPACE}"'), ("> 900\n", "> 61\n"), ("> 21600\n", "> 62\n")):
        assert was in file
        file = file.replace(was, now)
    assert made == yaml.safe_load(file)
    assert {line for rule in made["groups"][0]["rules"] for line in re.findall(r"> (6\d)\b", rule["expr"])} == {
        "61",
        "62",
    }


def test_the_query_of_the_autoscaler_counts_on_a_real_database(helm: str, engine: Engine) -> None:
    def depth(values: str, name: str) -> int:
        query = rendered(helm, values).one("ScaledObject", name)["spec"]["triggers"][0]["metadata"]["query"]
        with engine.connect() as connection:
            return int(connection.execute(text(query)).scalar_one())

    assert depth("everything", "rg-dataprep") == 0
    for _ in range(3):
        Jobs(engine).create(spec())
    assert depth("everything", "rg-dataprep") == 3  # prepare is ready in each
    assert depth("everything", "rg-worker-cpu") == 3  # and convert
    assert depth("gpu", "regraft-worker-gpu") == 0
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET status = 'running' WHERE name = 'prepare'"))
    assert depth("everything", "rg-dataprep") == 3  # what runs keeps its pod
