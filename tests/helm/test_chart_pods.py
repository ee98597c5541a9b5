"""What every pod has: its image, its environment, its security, its volumes."""

from __future__ import annotations

from typing import Any

import pytest
from chart_rendering import NAMESPACE, SETS, Manifest, container, rendered, variables

OWN = ("api", "dispatcher", "dataprep", "worker", "migrate", "keys", "doctor", "clean")


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("values", SETS)
def test_pods_meet_the_restricted_profile(helm: str, values: str) -> None:
    for name, pod in rendered(helm, values).pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name  # else REGRAFT_API_PORT is a service's address
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        for one in containers(pod):
            own = one["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in own, name


@pytest.mark.parametrize("values", SETS)
def test_only_the_appliance_needs_paths_of_the_node(helm: str, values: str) -> None:
    paths = {
        name: sorted(volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume)
        for name, pod in rendered(helm, values).pods()
    }
    wanted = ["/opt/cerebras", "/usr/local/bin/csctl", "/usr/local/bin/get-cerebras-token"]
    used = {name: found for name, found in paths.items() if found}
    assert used == ({"Deployment/regraft-worker-cerebras": wanted} if values == "cerebras" else {})


@pytest.mark.parametrize("values", SETS)
def test_every_container_says_what_it_needs_and_may_have(helm: str, values: str) -> None:
    for name, pod in rendered(helm, values).pods():
        for one in containers(pod):
            assert "memory" in one["resources"]["requests"], name
            assert "memory" in one["resources"]["limits"], name


@pytest.mark.parametrize("values", SETS)
def test_every_mount_has_its_volume(helm: str, values: str) -> None:
    for name, pod in rendered(helm, values).pods():
        there = {volume["name"] for volume in pod["volumes"]} | ({"data"} if "postgresql" in name else set())
        mounted = {mount["name"] for one in containers(pod) for mount in one["volumeMounts"]}
        assert mounted == there, name
        for one in containers(pod):
            paths = [mount["mountPath"] for mount in one["volumeMounts"]]
            assert len(paths) == len(set(paths)), name
            assert "/tmp" in paths or "redis" in name, name


@pytest.mark.parametrize("values", SETS)
def test_no_pod_has_a_token_that_it_does_not_need(helm: str, values: str) -> None:
    with_token = {name for name, pod in rendered(helm, values).pods() if pod["automountServiceAccountToken"]}
    assert with_token == ({"Deployment/rg-worker-kubernetes"} if values == "everything" else set())
    for account in rendered(helm, values).all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("values", SETS)
def test_no_password_is_written_down(helm: str, values: str) -> None:
    for _, pod in rendered(helm, values).pods():
        for one in containers(pod):
            for name, value in variables({"env": one.get("env", [])}).items():
                if "PASSWORD" in name or "SECRET" in name or "KEY" in name:
                    assert "secretKeyRef" in value, name
                if name.endswith("_URL") and isinstance(value, str):
                    password = value.partition("@")[0].partition("://")[2].partition(":")[2]
                    assert password in ("", "$(REDIS_PASSWORD)") or "@" not in value, value


def test_images_come_from_the_site(helm: str) -> None:
    found = rendered(helm, "air-gapped")
    for name, pod in found.pods():
        assert pod["imagePullSecrets"] == [{"name": "site-registry"}], name
        for one in containers(pod):
            assert one["image"].startswith("registry.site.example/mirror/"), name
    assert container(found.pod("Deployment/regraft-api"))["image"].endswith("regraft/api@sha256:" + "1" * 64)
    assert container(found.pod("Deployment/regraft-worker-cpu"))["image"].endswith("/regraft/worker:0.1.0")


def test_no_image_has_a_moving_tag(helm: str) -> None:
    for values in SETS:
        for name, pod in rendered(helm, values).pods():
            for one in containers(pod):
                tag = one["image"].rpartition(":")[2]
                assert tag and tag != "latest" and "/" not in tag, name


def test_the_platform_chooses_the_ids_on_openshift(helm: str) -> None:
    for name, pod in rendered(helm, "openshift").pods():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"]), name
        assert all("runAsUser" not in one["securityContext"] for one in containers(pod)), name
    assert container(rendered(helm, "default").pod("Deployment/regraft-api"))
    assert rendered(helm, "default").pod("Deployment/regraft-api")["securityContext"]["runAsUser"] == 10001


def test_secrets_with_the_whole_url(helm: str) -> None:
    found = variables(container(rendered(helm, "default").pod("Deployment/regraft-api")))
    assert found == {
        "REGRAFT_DATABASE_URL": reference("regraft-database", "database-url"),
        "REGRAFT_REDIS_URL": reference("regraft-redis", "redis-url"),
    }


def test_servers_given_in_parts(helm: str) -> None:
    found = variables(container(rendered(helm, "external").pod("Deployment/regraft-worker-cpu")))
    assert found["PGPASSWORD"] == reference("database", "password")
    assert found["REGRAFT_DATABASE_URL"] == "postgresql://regraft@db.example.org:6432/production?sslmode=verify-full"
    assert found["REDIS_PASSWORD"] == reference("broker", "password")
    assert found["REGRAFT_REDIS_URL"] == "rediss://:$(REDIS_PASSWORD)@redis.example.org:6380/3"
    assert found["AWS_ACCESS_KEY_ID"] == reference("bucket", "access-key-id")
    assert found["AWS_SECRET_ACCESS_KEY"] == reference("bucket", "secret-access-key")
    assert (found["AWS_ENDPOINT_URL"], found["AWS_DEFAULT_REGION"]) == ("https://s3.example.org:9000", "eu-1")


def test_the_password_stands_before_the_url_that_refers_to_it(helm: str) -> None:
    for values in ("external", "minimal", "openshift"):
        for _, pod in rendered(helm, values).pods():
            for one in containers(pod):
                names = [variable["name"] for variable in one.get("env", [])]
                if "REGRAFT_REDIS_URL" in names:
                    assert names.index("REDIS_PASSWORD") < names.index("REGRAFT_REDIS_URL")


def test_a_broker_without_a_password(helm: str) -> None:
    settings = ['externalRedis.host="cache"', 'externalRedis.passwordKey=""', 'externalRedis.existingSecret=""']
    found = variables(container(rendered(helm, "default", *settings).pod("Deployment/regraft-api")))
    assert "REDIS_PASSWORD" not in found
    assert found["REGRAFT_REDIS_URL"] == "redis://cache:6379/0"


def test_extra_things_reach_all_own_pods(helm: str) -> None:
    for name, pod in rendered(helm, "everything").pods():
        for one in containers(pod):
            if one["name"] in OWN:
                assert variables(one)["HTTPS_PROXY"] == "http://proxy.example.org:3128", name
                assert {"configMapRef": {"name": "site"}} in one["envFrom"], name
                assert {"name": "ca", "mountPath": "/etc/ssl/site", "readOnly": True} in one["volumeMounts"], name
            if one["name"] in ("api", "worker") and "test" not in name:
                assert {"configMapRef": {"name": "site"}} in one["envFrom"], name


def test_pods_spread_and_start_anew_when_the_settings_change(helm: str) -> None:
    def template(*settings: str) -> Manifest:
        found = rendered(helm, "default", *settings).one("Deployment", "regraft-api")
        return dict(found["spec"]["template"])

    first, other = template(), template("settings.lease_seconds=77")
    assert first["metadata"]["annotations"] != other["metadata"]["annotations"]
    spread = first["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for one in spread:
        assert one["labelSelector"]["matchLabels"].items() <= first["metadata"]["labels"].items()


def reference(secret: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": secret, "key": key}}


def test_everything_is_in_the_namespace_of_the_release(helm: str) -> None:
    cluster = {"PriorityClass"}
    for values in SETS:
        for one in rendered(helm, values).objects:
            if one["kind"] not in cluster and not one["metadata"]["name"].endswith("-extra"):
                assert one["metadata"]["namespace"] == NAMESPACE


@pytest.mark.parametrize("values", SETS)
def test_no_request_is_above_its_limit(helm: str, values: str) -> None:
    for name, pod in rendered(helm, values).pods():
        for one in containers(pod):
            assert too_high(one["resources"]) == [], name


def too_high(resources: dict[str, Any]) -> list[str]:
    """Resources that a server would refuse: Kubernetes' schemas do not say it."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    return [name for name, limit in limits.items() if amount(requests.get(name, 0)) > amount(limit)]


def amount(quantity: object) -> float:
    units = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    digits = str(quantity).rstrip("mMGTi")
    return float(digits) * units.get(str(quantity).removeprefix(digits), 1)


def test_a_request_above_its_limit_would_be_found() -> None:
    assert too_high({"requests": {"memory": "256Gi", "cpu": "500m"}, "limits": {"memory": "16Gi", "cpu": 1}}) == [
        "memory"
    ]
