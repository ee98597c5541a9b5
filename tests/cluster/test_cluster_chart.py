"""The chart on a real API server: every object it knows is accepted, and releases go forward and back.

A server may be older than the chart admits, or lack the definitions of custom resources. The templates of kinds that
it does not know are then left out of a copy of the chart, whose `kubeVersion` is lifted, and `unknown_kinds` says for
each version which ones these may be: another one is an error.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import CHART, HELMS, SETS
from control_plane import LAUNCHER, NAMESPACE, ControlPlane, documented
from kubelet_double import Kubelet

WAIT = "90s"
CUSTOM = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule", "HTTPRoute"}
pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(not HELMS, reason="no helm on PATH")]
RELEASED = {
    "database": {"database-url": "postgresql://regraft@db/regraft"},
    "broker": {"redis-url": "redis://broker"},
}


def unknown_kinds(version: tuple[int, int]) -> set[str]:
    """What a server of that version has not, in the API versions of the chart, besides custom resources."""
    since = {"PodDisruptionBudget": (1, 21), "CronJob": (1, 21), "HorizontalPodAutoscaler": (1, 23)}
    return CUSTOM | {kind for kind, first in since.items() if version < first}


class Helm:
    """One Helm on a server."""

    def __init__(self, program: str, plane: ControlPlane, chart: Path) -> None:
        self.program, self._plane, self.chart = program, plane, chart
        # Helm 4 applies on the server's side, which servers before 1.22 do not offer.
        is_four = self("version", "--short").startswith("v4")
        self.aside = ["--server-side=false"] if is_four and plane.version < (1, 22) else []

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.program, *arguments, "--kubeconfig", str(self._plane.folder / "kubeconfig")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def release(self, verb: str, values: str, *settings: str) -> None:
        """`install` or `upgrade`, until everything is ready."""
        flags = [flag for setting in settings for flag in ("--set-json", setting)]
        file = str(CHART / f"ci/{values}-values.yaml")
        self(
            verb, "rg", str(self.chart), "-n", NAMESPACE, "-f", file, *flags, "--wait", f"--timeout={WAIT}", *self.aside
        )

    def history(self) -> list[tuple[int, str]]:
        found = json.loads(self("history", "rg", "-n", NAMESPACE, "-o", "json"))
        return [(one["revision"], one["status"]) for one in found]


@pytest.fixture(scope="module", params=HELMS, ids=lambda path: Path(path).name)
def helm(
    request: pytest.FixtureRequest, plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Helm]:
    found = Helm(request.param, plane, known_chart(plane, request.param, tmp_path_factory.mktemp("chart")))
    yield found
    found("uninstall", "rg", "-n", NAMESPACE, "--ignore-not-found")  # where a test has failed in between


def known_chart(plane: ControlPlane, program: str, folder: Path) -> Path:
    """The chart; for a server that lacks something, a copy without the templates of that."""
    lacking: set[str] = set()
    sources: set[str] = set()
    for values in SETS:
        for source, one in objects(program, values):
            if not plane.serves(one["apiVersion"], one["kind"]):
                lacking.add(one["kind"])
                sources.add(source)
    assert lacking <= unknown_kinds(plane.version), lacking
    copy = folder / "regraft"
    shutil.copytree(CHART, copy)
    for source in sources:
        (copy / "templates" / source).unlink()
    if plane.version < (1, 25):
        about = copy / "Chart.yaml"
        about.write_text(re.sub("^kubeVersion:.*$", "", about.read_text(), flags=re.MULTILINE))
    return copy


@cache
def objects(program: str, values: str) -> list[tuple[str, dict[str, Any]]]:
    """Each object of the whole chart with the template that it comes from."""
    command = [program, "template", "rg", str(CHART), "-n", NAMESPACE, "-f", str(CHART / f"ci/{values}-values.yaml")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = []
    for part in text.split("\n---\n"):
        one = yaml.load(part, yaml.CSafeLoader)
        if one is not None:
            (line,) = (line for line in part.splitlines() if line.startswith("# Source: "))
            found.append((line.removeprefix("# Source: regraft/templates/"), one))
    return found


@pytest.mark.parametrize("values", SETS)
def test_the_server_accepts_every_object_that_it_knows(plane: ControlPlane, values: str) -> None:
    accepted, accounts = 0, []
    for _, one in sorted(objects(HELMS[0], values), key=lambda found: found[1]["kind"] == "Pod"):
        if not plane.serves(one["apiVersion"], one["kind"]):
            assert one["kind"] in unknown_kinds(plane.version)
            continue
        path, is_account = path_of(plane, one), one["kind"] == "ServiceAccount"
        plane.admin.call("POST", path + ("" if is_account else "?dryRun=All&fieldValidation=Strict"), one)
        accounts += [f"{path}/{one['metadata']['name']}"] if is_account else []  # a pod's must be there
        accepted += 1
    for account in accounts:
        plane.admin.call("DELETE", account)
    assert accepted > 8


def path_of(plane: ControlPlane, one: dict[str, Any]) -> str:
    root = f"/apis/{one['apiVersion']}" if "/" in one["apiVersion"] else f"/api/{one['apiVersion']}"
    (found,) = (
        kind
        for kind in plane.admin.call("GET", root)["resources"]
        if kind["kind"] == one["kind"] and "/" not in kind["name"]
    )
    where = f"/namespaces/{NAMESPACE}" if found["namespaced"] else ""
    return f"{root}{where}/{found['name']}"


@pytest.fixture
def secrets(plane: ControlPlane) -> Iterator[None]:
    """Those that the default values name."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    for name, data in RELEASED.items():
        plane.apply(path, {"metadata": {"name": f"regraft-{name}"}, "stringData": data})
    yield
    for name in RELEASED:
        plane.admin.call("DELETE", f"{path}/regraft-{name}")


def test_a_release_is_installed_upgraded_rolled_back_and_taken_away(
    plane: ControlPlane, node: Kubelet, helm: Helm, secrets: None
) -> None:
    template = 'targets.kubernetes.podTemplate={"spec":{"containers":[{"name":"regraft","image":"worker:1"}]}}'
    # A bucket: nothing here would bind a claim. Names that begin with `rg`, as those of LAUNCHER.
    common = ('fullnameOverride="rg"', 'storage={"kind":"s3","s3":{"uri":"s3://artifacts/regraft"}}')
    helm.release("install", "default", *common, "targets.kubernetes.enabled=true", template)
    assert replicas(plane, "rg-api") == 2
    for rule in documented("jobs"):
        for verb, resource in ((verb, one) for verb in rule["verbs"] for one in rule["resources"]):
            assert plane.may(LAUNCHER, verb, rule["apiGroups"][0], resource), (verb, resource)
    assert not plane.may(LAUNCHER, "get", "", "secrets")
    helm.release("upgrade", "default", *common, "api.replicas=3", "networkPolicy.enabled=false")
    assert replicas(plane, "rg-api") == 3
    assert plane.admin.call("GET", POLICIES)["items"] == []
    assert not any(name.startswith("rg-launcher") for name in roles(plane))
    helm("rollback", "rg", "1", "-n", NAMESPACE, "--wait", f"--timeout={WAIT}", *helm.aside)
    assert replicas(plane, "rg-api") == 2
    assert len(plane.admin.call("GET", POLICIES)["items"]) > 3
    assert "rg-launcher" in roles(plane)
    assert helm.history() == [(1, "superseded"), (2, "superseded"), (3, "deployed")]
    helm("uninstall", "rg", "-n", NAMESPACE, "--wait", f"--timeout={WAIT}")
    assert plane.admin.call("GET", DEPLOYMENTS)["items"] == []
    assert "rg-launcher" not in roles(plane)


DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"


def replicas(plane: ControlPlane, name: str) -> int:
    return int(plane.admin.call("GET", f"{DEPLOYMENTS}/{name}")["status"]["readyReplicas"])


def roles(plane: ControlPlane) -> set[str]:
    found = plane.admin.call("GET", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles")
    return {one["metadata"]["name"] for one in found["items"]}
