"""A real Kubernetes control plane on this machine: etcd, kube-apiserver and kube-controller-manager, without a node.

The binaries are those of the folder that `KUBEBUILDER_ASSETS` names, as for controller-runtime's envtest. Everything
listens on 127.0.0.1; tokens stand in a file, and RBAC decides.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from helpers import eventually
from regraft.embedded import free_port
from regraft_worker.kubernetes.api import Api, ApiError, Json, UnreachableError
from regraft_worker.kubernetes.options import Options

Rules = list[dict[str, list[str]]]
NAMESPACE = "training"
LAUNCHER = f"system:serviceaccount:{NAMESPACE}:rg-launcher"
"""The account of the chart's workers that make Jobs, in a release whose names begin with `rg`."""
USERS = {"admin": ("admin", "system:masters"), "launcher": (LAUNCHER, "system:serviceaccounts,system:authenticated")}
CONTROLLERS = "job,garbagecollector,namespace,serviceaccount,serviceaccount-token,deployment,replicaset,statefulset"
DOCUMENTED = Path(__file__).parents[2] / "docs/kubernetes.md"


@dataclass(frozen=True)
class ControlPlane:
    """Its address, and a folder for each user as a pod has one of its service account."""

    url: str
    folder: Path
    version: tuple[int, int]

    @cached_property
    def admin(self) -> Api:
        return Api(Options(pod=Path("none"), api=self.url, account=self.folder / "admin"))

    def environment(self, user: str) -> dict[str, str]:
        """What a worker needs to be that user."""
        account = str(self.folder / user)
        return {"REGRAFT_KUBERNETES_API": self.url, "REGRAFT_KUBERNETES_ACCOUNT": account}

    def apply(self, path: str, body: Mapping[str, object]) -> Json:
        """Create it unless it is there."""
        try:
            return self.admin.call("POST", path, body)
        except ApiError as error:
            if error.status != 409:
                raise
            return {}

    def may(self, user: str, verb: str, group: str, resource: str, *, namespace: str = NAMESPACE) -> bool:
        """Whether RBAC lets a user do it."""
        resource, _, subresource = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        if subresource:
            asked["subresource"] = subresource
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": asked},
        }
        found = self.admin.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(found["status"]["allowed"])

    def serves(self, api_version: str, kind: str) -> bool:
        """Whether it knows a kind."""
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            found = self.admin.call("GET", path)
        except ApiError:
            return False
        return any(one["kind"] == kind for one in found["resources"])


@contextmanager
def granted(plane: ControlPlane, user: str, rules: Rules, *, name: str = "granted") -> Iterator[None]:
    """A user has a role with these rules for a while."""
    rbac, who = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}", {"metadata": {"name": name}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    plane.admin.call("POST", f"{rbac}/roles", {**who, "rules": rules})
    plane.admin.call("POST", f"{rbac}/rolebindings", {**who, "roleRef": role, "subjects": [subject]})
    yield
    for kind in ("rolebindings", "roles"):
        plane.admin.call("DELETE", f"{rbac}/{kind}/{name}")


@contextmanager
def control_plane(assets: Path, folder: Path) -> Iterator[ControlPlane]:
    """Started, with a namespace, until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    said = subprocess.run([assets / "kube-apiserver", "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = map(int, re.findall(r"v(\d+)\.(\d+)", said)[0])
    with ExitStack() as running:

        def start(name: str, *arguments: str) -> None:
            log = running.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen([assets / name, *arguments], stdout=log, stderr=subprocess.STDOUT)
            running.callback(process.wait)
            running.callback(process.kill)

        etcd, port = f"http://127.0.0.1:{free_port()}", free_port()
        peer = f"http://127.0.0.1:{free_port()}"
        start("etcd", f"--data-dir={folder / 'etcd'}", *_etcd_addresses(etcd, peer))
        start("kube-apiserver", f"--etcd-servers={etcd}", *_api_server(folder, port))
        found = ControlPlane(f"https://127.0.0.1:{port}", folder, (major, minor))
        certificate = folder / "certificates/apiserver.crt"
        eventually(certificate.is_file, what="the certificate")
        _write_accounts(found, certificate)
        eventually(lambda: _is_ready(found), seconds=90, what="an API server that is ready")
        start("kube-controller-manager", *_controller_manager(found))
        found.apply("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        eventually(lambda: found.admin.call("GET", accounts)["items"], what="the service account of the namespace")
        yield found


def assets() -> Path | None:
    """Folder with the binaries."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(named) if named else None


def documented(*kinds: str) -> Rules:
    """Rules of a role in the documentation: those of the block whose rules name these resources."""
    blocks = DOCUMENTED.read_text(encoding="utf-8").split("```yaml\nrules:")[1:]
    found = [yaml.safe_load(block.split("```")[0]) for block in blocks]
    return next(rules for rules in found if set(kinds) <= {one for rule in rules for one in rule["resources"]})


def _etcd_addresses(client: str, peer: str) -> list[str]:
    return [
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def _api_server(folder: Path, port: int) -> list[str]:
    key, tokens = folder / "accounts.key", folder / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    lines = [f'{name}-token,{user},{name},"{groups}"\n' for name, (user, groups) in USERS.items()]
    tokens.write_text("".join(lines))
    return [
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--allow-privileged=true",
    ]


def _controller_manager(found: ControlPlane) -> list[str]:
    arguments = [
        f"--kubeconfig={found.folder / 'kubeconfig'}",
        f"--controllers={CONTROLLERS}",
        f"--service-account-private-key-file={found.folder / 'accounts.key'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_port()}",
        f"--cert-dir={found.folder / 'controllers'}",
        "--leader-elect=false",
    ]
    return [*arguments, "--port=0"] if found.version < (1, 24) else arguments


def _write_accounts(found: ControlPlane, certificate: Path) -> None:
    for name in USERS:
        account = found.folder / name
        account.mkdir()
        (account / "token").write_text(f"{name}-token")
        (account / "namespace").write_text(NAMESPACE)
        (account / "ca.crt").write_text(certificate.read_text())
    cluster = {"server": found.url, "certificate-authority": str(found.folder / "admin/ca.crt")}
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": "admin-token"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "admin", "namespace": NAMESPACE}}],
    }
    (found.folder / "kubeconfig").write_text(yaml.safe_dump(config))


def _is_ready(found: ControlPlane) -> bool:
    try:
        # Roles are made by a hook after the start; `ready` is not said before.
        found.admin.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin")
    except (ApiError, UnreachableError):
        return False
    return True
