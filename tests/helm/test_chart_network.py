"""Network policies, read as a cluster reads them: may this pod send to that one on this port?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chart_rendering import Rendered, rendered

OPERATORS = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    same = selector.get("matchLabels", {}).items() <= labels.items()
    rules = selector.get("matchExpressions", [])
    return same and all(OPERATORS[rule["operator"]](labels.get(rule["key"]), rule["values"]) for rule in rules)


def rules(found: Rendered, labels: dict[str, str], direction: str) -> Iterator[dict[str, Any]]:
    for policy in found.all("NetworkPolicy"):
        spec = policy["spec"]
        if direction in spec["policyTypes"] and selects(spec["podSelector"], labels):
            yield from spec.get(direction.lower(), [])


def labels_of(component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "regraft",
        "app.kubernetes.io/instance": "regraft",
        "app.kubernetes.io/component": component,
    }


def may_send(found: Rendered, component: str, port: int, *, to: str | None = None, protocol: str = "TCP") -> bool:
    """To a pod of the release, or anywhere else."""
    for rule in rules(found, labels_of(component), "Egress"):
        ports = rule.get("ports")
        peers = rule.get("to")
        on_port = ports is None or any(
            one.get("port") == port and one.get("protocol", "TCP") == protocol for one in ports
        )
        to_peer = peers is None or (
            to is not None
            and any(selects(peer["podSelector"], labels_of(to)) for peer in peers if "podSelector" in peer)
        )
        if on_port and to_peer:
            return True
    return False


def may_receive(found: Rendered, component: str, *, sender: str | None = None) -> bool:
    for rule in rules(found, labels_of(component), "Ingress"):
        peers = rule.get("from")
        if peers is None:
            return True
        if sender and any(selects(peer["podSelector"], labels_of(sender)) for peer in peers if "podSelector" in peer):
            return True
    return False


def test_every_pod_of_the_release_is_behind_the_default_deny(helm: str) -> None:
    for values in ("default", "everything", "external"):
        found = rendered(helm, values)
        deny = next(one for one in found.all("NetworkPolicy") if one["metadata"]["name"].endswith("default-deny"))
        assert set(deny["spec"]) == {"podSelector", "policyTypes"}
        assert set(deny["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        for one in found.objects:
            if "template" in one.get("spec", {}):
                assert selects(deny["spec"]["podSelector"], one["spec"]["template"]["metadata"]["labels"])


def test_processes_reach_what_they_need_and_nothing_else(helm: str) -> None:
    found = rendered(helm, "default")
    for component in ("api", "dispatcher", "dataprep", "worker-cpu", "migrate"):
        assert may_send(found, component, 53, protocol="UDP")
        assert may_send(found, component, 5432)
        assert may_send(found, component, 6379)
        assert not may_send(found, component, 443)
        assert not may_send(found, component, 8000, to="api")
    assert may_send(found, "test", 8000, to="api")


def test_only_the_api_is_called(helm: str) -> None:
    found = rendered(helm, "default")
    assert may_receive(found, "api")
    for component in ("dispatcher", "dataprep", "worker-cpu", "migrate"):
        assert not may_receive(found, component, sender="api")


def test_bundled_servers_hear_the_release_only(helm: str) -> None:
    found = rendered(helm, "air-gapped")
    for component, port in (("postgresql", 5432), ("redis", 6379)):
        assert may_receive(found, component, sender="worker-cpu")
        assert not may_receive(found, component)
        assert may_send(found, "worker-cpu", port, to=component)
        assert not may_send(found, component, 443)


def test_external_servers_by_their_own_ports_and_addresses(helm: str) -> None:
    found = rendered(helm, "external")
    opened = {
        port["port"]: rule["to"]
        for rule in rules(found, labels_of("worker-cpu"), "Egress")
        for port in rule["ports"]
        if port["port"] != 53
    }
    assert opened == {port: [{"ipBlock": {"cidr": "10.20.0.0/16"}}] for port in (6432, 6380, 9000)}


def test_only_those_who_are_named_reach_the_api_when_some_are(helm: str) -> None:
    found = rendered(helm, "everything")
    assert not may_receive(found, "api", sender="worker-cpu")
    assert may_receive(found, "api", sender="test")


def test_further_egress_is_that_of_workers(helm: str) -> None:
    found = rendered(helm, "everything")
    assert may_send(found, "worker-kubernetes", 6443)  # the Kubernetes API
    assert not may_send(found, "worker-gpu-h200", 6443)
    assert may_send(found, "dataprep", 443)
    assert not may_send(found, "dataprep", 6443)
    assert not may_send(found, "api", 443)
    assert may_send(rendered(helm, "cerebras"), "worker-cerebras", 443)
    assert may_send(rendered(helm, "cerebras"), "worker-cerebras", 8443)
    assert not may_send(rendered(helm, "cerebras"), "worker-cpu", 443)


def test_pods_of_a_training_on_several_nodes_reach_each_other(helm: str) -> None:
    pod = {"app.kubernetes.io/name": "regraft-training"}
    template = 'targets.kubernetes.podTemplate={"spec":{"containers":[{"name":"regraft","image":"worker:1"}]}}'
    found = rendered(helm, "external", "targets.kubernetes.enabled=true", template)
    (ingress,) = rules(found, pod, "Ingress")
    assert ingress == {"from": [{"podSelector": {"matchLabels": pod}}]}
    egress = list(rules(found, pod, "Egress"))
    assert {"to": [{"podSelector": {"matchLabels": pod}}]} in egress
    assert {port["port"] for rule in egress for port in rule.get("ports", [])} == {53, 9000}


def test_they_can_be_left_out(helm: str) -> None:
    assert rendered(helm, "minimal").all("NetworkPolicy") == []
