"""What an operator sets about training on Kubernetes, from the environment; the settings are `regraft.settings`'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from regraft.errors import InvalidInputError
from regraft.specs import Spec

PREFIX = "REGRAFT_KUBERNETES_"
CONTAINER = "regraft"
_RUNTIMES = ("", "TrainingRuntime", "ClusterTrainingRuntime")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class Options(Spec):
    """Where the pods go and what a node has."""

    pod: Path | None = None
    """YAML file with their PodTemplateSpec."""
    runtime: str = ""
    """Instead of it: a TrainingRuntime of the namespace by its name, or `ClusterTrainingRuntime/<name>`."""
    api: str = "https://kubernetes.default.svc"
    account: Path = Path(ACCOUNT)
    """Folder with `token`, `ca.crt` and `namespace`."""
    namespace: str = ""
    """Empty: that of the account."""
    queue: str = ""
    device: Literal["gpu", "cpu"] = "gpu"
    node_devices: int = 8
    nodes: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Options:
        """As the environment says; what is not set has its default.

        Raises:
            InvalidInputError: both a template and a runtime are named, or a kind that is no runtime.
        """
        given = {name: environment.get(PREFIX + name.upper(), "") for name in cls.model_fields}
        found = cls.model_validate({name: value for name, value in given.items() if value})
        _check_runtime(found)
        if found.namespace:
            return found
        return found.model_copy(update={"namespace": (found.account / "namespace").read_text(encoding="utf-8").strip()})

    def template(self) -> dict[str, Any]:
        """The PodTemplateSpec, with a container `regraft`.

        Raises:
            InvalidInputError: the file is none.
        """
        assert self.pod is not None
        found = yaml.safe_load(self.pod.read_text(encoding="utf-8"))
        containers = found.get("spec", {}).get("containers", []) if isinstance(found, dict) else []
        if not any(container.get("name") == CONTAINER and container.get("image") for container in containers):
            raise InvalidInputError(
                "this is no PodTemplateSpec with a container `regraft` that has an image",
                field=PREFIX + "POD",
                value=str(self.pod),
                remedy="See docs/kubernetes.md.",
            )
        return dict(found)

    def nodes_for(self, devices: int) -> tuple[int, int]:
        """Pods, and devices in each.

        Raises:
            InvalidInputError: there are not so many, or they do not come out even.
        """
        nodes = -(-devices // self.node_devices)
        if nodes > self.nodes:
            raise InvalidInputError(
                "there are not so many in the cluster, as far as this worker may ask",
                field="target.devices",
                value=devices,
                remedy=f"Ask for at most {self.nodes * self.node_devices}.",
                reason="target_not_available",
            )
        if devices % nodes:
            raise InvalidInputError(
                f"they cannot be divided evenly among nodes of {self.node_devices}",
                field="target.devices",
                value=devices,
                remedy=f"Ask for a multiple of {self.node_devices}.",
            )
        return nodes, devices // nodes


def _check_runtime(options: Options) -> None:
    kind, _, name = options.runtime.rpartition("/")
    if kind not in _RUNTIMES or bool(kind) > bool(name):
        raise InvalidInputError(
            "this is no runtime of Kubeflow's Trainer",
            field=PREFIX + "RUNTIME",
            value=options.runtime,
            remedy="Name a TrainingRuntime of the namespace, or ClusterTrainingRuntime/<name>.",
        )
    if options.pod and options.runtime:
        raise InvalidInputError(
            f"{PREFIX}POD is set as well",
            field=PREFIX + "RUNTIME",
            value=options.runtime,
            remedy="Unset one of them: Jobs are made from a template, TrainJobs from a runtime.",
        )
