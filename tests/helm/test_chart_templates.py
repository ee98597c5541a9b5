"""The chart, template by template."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import yaml
from chart_rendering import CHART, SETS, Manifest, Rendered, container, rendered, run, variables

from regraft_worker.kubernetes.options import Options

HOME = "/var/lib/regraft"


def grace(found: Rendered, name: str) -> int:
    return int(found.pod(f"Deployment/{name}")["terminationGracePeriodSeconds"])


@pytest.mark.parametrize("values", SETS)
def test_selectors_find_the_pods_of_their_own_workload_and_no_others(helm: str, values: str) -> None:
    found = rendered(helm, values)
    workloads = [one for one in found.objects if one["kind"] in ("Deployment", "StatefulSet")]
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in workloads}

    def selected(selector: Manifest) -> set[str]:
        return {name for name, given in labels.items() if selector.items() <= given.items()}

    for one in workloads:
        assert selected(one["spec"]["selector"]["matchLabels"]) == {one["metadata"]["name"]}
    for one in found.all("PodDisruptionBudget"):
        assert selected(one["spec"]["selector"]["matchLabels"]) == {one["metadata"]["name"]}
    for one in found.all("Service"):
        assert selected(one["spec"]["selector"]) == {one["metadata"]["name"]}


def test_deployments_run_the_commands_of_the_project(helm: str) -> None:
    found = rendered(helm, "gpu")
    commands = {
        one["metadata"]["name"]: (container(one["spec"]["template"]["spec"])["args"], one["spec"].get("replicas"))
        for one in found.all("Deployment")
    }
    assert commands == {
        "regraft-api": (["regraft", "serve", "api"], 2),
        "regraft-dispatcher": (["regraft", "serve", "dispatcher"], 2),
        "regraft-dataprep": (["regraft", "serve", "dataprep"], 1),
        "regraft-worker-cpu": (["regraft", "serve", "worker"], 1),
        "regraft-worker-gpu": (["regraft", "serve", "worker"], None),  # its autoscaler's business
        "regraft-worker-gpu-h100": (["regraft", "serve", "worker"], None),
    }


def test_api_deployment_has_its_three_probes_and_never_fewer_pods(helm: str) -> None:
    one = rendered(helm, "default").one("Deployment", "regraft-api")
    api = container(one["spec"]["template"]["spec"])
    paths = {name: api[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    # Not the broker nor the storage: all pods miss them at once, and accept jobs without.
    readiness = "/readyz?exclude=broker&exclude=storage"
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": readiness}
    assert api["ports"] == [{"name": "http", "containerPort": 8000}]
    assert one["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_liveness_of_the_others_looks_at_the_file_that_they_touch(helm: str) -> None:
    found = rendered(helm, "default")
    touched = found.one("ConfigMap", "regraft")["data"]["REGRAFT_PULSE_PATH"]
    for name in ("dispatcher", "dataprep", "worker-cpu"):
        probe = container(found.pod(f"Deployment/regraft-{name}"))["livenessProbe"]
        assert touched in probe["exec"]["command"][-1]


def test_the_dispatcher_mounts_neither_artifacts_nor_corpora(helm: str) -> None:
    volumes = rendered(helm, "air-gapped").pod("Deployment/regraft-dispatcher")["volumes"]
    assert not any("persistentVolumeClaim" in volume for volume in volumes)


def test_workers_are_given_longer_than_a_stage_may_take_to_save(helm: str) -> None:
    assert grace(rendered(helm, "default"), "regraft-worker-cpu") == 150
    assert grace(rendered(helm, "everything"), "rg-worker-cpu") == 330
    assert grace(rendered(helm, "everything"), "rg-dataprep") == 330
    assert grace(rendered(helm, "cerebras"), "regraft-worker-cerebras") == 600


def test_gpu_workers_ask_for_their_devices(helm: str) -> None:
    found = rendered(helm, "gpu")
    pod = found.pod("Deployment/regraft-worker-gpu-h100")
    assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert container(pod)["image"] == "ghcr.io/regraft/worker-cuda:0.1.0"
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    shared = {volume["name"]: volume for volume in pod["volumes"]}["shared-memory"]
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}
    other = found.pod("Deployment/regraft-worker-gpu")
    assert other["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    # A device has no room for a second pod: the old one goes first.
    strategy = found.one("Deployment", "regraft-worker-gpu")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_cerebras_workers_are_the_user_whom_the_cluster_knows(helm: str) -> None:
    found = rendered(helm, "cerebras")
    pod = found.pod("Deployment/regraft-worker-cerebras")
    context = pod["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (4711, 4700)
    assert "fsGroup" not in context  # files on NFS keep their owners
    mounts = {mount["mountPath"]: mount.get("readOnly") for mount in container(pod)["volumeMounts"]}
    assert mounts["/opt/cerebras"] is True
    assert mounts["/usr/local/bin/get-cerebras-token"] is True
    assert mounts["/software"] is True
    assert mounts["/srv/projects/news"] is False
    assert mounts["/etc/passwd"] is True
    passwd = found.one("ConfigMap", "regraft-worker-cerebras-passwd")["data"]["passwd"]
    assert "news:x:4711:4700:" in passwd
    assert variables(container(pod))["USER"] == "news"
    assert pod["hostAliases"] == [{"ip": "10.11.12.13", "hostnames": ["cluster.cerebras.example"]}]


def test_configmap_has_the_settings_as_python_reads_them(helm: str) -> None:
    data = rendered(helm, "everything").one("ConfigMap", "rg")["data"]
    assert data["REGRAFT_MAX_BODY_BYTES"] == "1048576"
    assert data["REGRAFT_LEASE_SECONDS"] == "60"
    assert data["REGRAFT_CHECK_FILES"] == "true"
    assert data["REGRAFT_ALLOWED_ROOTS"] == "/data,/models"
    assert data["REGRAFT_STORAGE_URI"] == f"file://{HOME}/storage"
    assert (
        rendered(helm, "external").one("ConfigMap", "regraft")["data"]["REGRAFT_STORAGE_URI"]
        == "s3://artifacts/regraft"
    )


def test_corpora_and_models_lie_at_the_same_place_everywhere(helm: str) -> None:
    found = rendered(helm, "everything")
    for name in ("api", "dataprep", "worker-cpu", "worker-gpu"):
        mounts = {mount["mountPath"]: mount for mount in container(found.pod(f"Deployment/rg-{name}"))["volumeMounts"]}
        assert mounts["/data"]["readOnly"] is True, name
        assert mounts["/models"]["readOnly"] is False, name
        assert mounts[f"{HOME}/logs"]["name"] == "logs", name


def test_artifacts_and_logs_are_on_one_claim_that_stays(helm: str) -> None:
    found = rendered(helm, "default")
    claim = found.one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("api", "dataprep", "worker-cpu"):
        volumes = {volume["name"]: volume for volume in found.pod(f"Deployment/regraft-{name}")["volumes"]}
        assert volumes["home"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert rendered(helm, "air-gapped").all("PersistentVolumeClaim") == []
    assert rendered(helm, "external").all("PersistentVolumeClaim") == []


def test_migration_runs_before_what_needs_it(helm: str) -> None:
    job = rendered(helm, "default").one("Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert container(pod)["args"] == ["regraft", "migrate"]
    # Nothing of the release is there yet, so nothing of it is referred to.
    assert "serviceAccountName" not in pod
    assert "envFrom" not in container(pod)
    assert rendered(helm, "minimal").one("Job")["metadata"]["annotations"]["helm.sh/hook"] == "post-install,pre-upgrade"
    assert rendered(helm, "default", "migrate.enabled=false").all("Job") == []


def test_keys_of_a_secret_are_made_valid_after_the_migration(helm: str) -> None:
    pod = rendered(helm, "everything").one("Job")["spec"]["template"]["spec"]
    assert [one["args"] for one in pod["initContainers"]] == [["regraft", "migrate"]]
    folder = "/run/secrets/regraft"
    assert container(pod)["args"] == ["regraft", "keys", "adopt", f"admin={folder}/admin", f"read={folder}/read"]


def test_disruption_budgets_of_all_or_of_none(helm: str) -> None:
    assert rendered(helm, "default").names("PodDisruptionBudget") == {
        f"regraft-{name}" for name in ("api", "dispatcher", "dataprep", "worker-cpu")
    }
    assert rendered(helm, "minimal").all("PodDisruptionBudget") == []


def test_autoscalers_name_deployments_that_leave_their_size_alone(helm: str) -> None:
    for values in SETS:
        found = rendered(helm, values)
        for one in (*found.all("ScaledObject"), *found.all("HorizontalPodAutoscaler")):
            target = found.one("Deployment", one["spec"]["scaleTargetRef"]["name"])
            assert "replicas" not in target["spec"]


def test_scaled_objects_count_what_waits_and_what_runs(helm: str) -> None:
    found = rendered(helm, "gpu").one("ScaledObject", "regraft-worker-gpu-h100")
    assert (found["spec"]["minReplicaCount"], found["spec"]["maxReplicaCount"]) == (1, 2)
    trigger = found["spec"]["triggers"][0]
    assert "queue IN ('train.gpu', 'evaluate.gpu')" in trigger["metadata"]["query"]
    assert (
        trigger["authenticationRef"]["name"] == rendered(helm, "gpu").one("TriggerAuthentication")["metadata"]["name"]
    )
    secret = rendered(helm, "gpu").one("TriggerAuthentication")["spec"]["secretTargetRef"]
    assert secret == [{"parameter": "connection", "name": "regraft-database", "key": "database-url"}]
    other = rendered(helm, "external")
    assert other.all("TriggerAuthentication") == []
    assert "train[.]cpu" in other.one("ScaledObject", "regraft-worker-cpu")["spec"]["triggers"][0]["metadata"]["query"]


def test_rights_are_those_of_launching_jobs_and_no_more(helm: str) -> None:
    found = rendered(helm, "everything")
    rights = {resource: set(rule["verbs"]) for rule in found.one("Role")["rules"] for resource in rule["resources"]}
    assert set(rights) == {"jobs", "services", "pods", "pods/log"}
    assert rights["pods"] == {"get", "list"}
    assert not any({"*", "deletecollection", "escalate", "bind"} & verbs for verbs in rights.values())
    subject = found.one("RoleBinding")["subjects"][0]
    assert subject["name"] == found.pod("Deployment/rg-worker-kubernetes")["serviceAccountName"] == "rg-launcher"
    assert found.pod("Deployment/rg-api")["serviceAccountName"] == "runner"
    assert rendered(helm, "default").all("Role") == []


def test_uploads_that_nobody_finished_are_cleaned_away(helm: str) -> None:
    job = rendered(helm, "external").one("CronJob")
    assert job["spec"]["schedule"] == "17 3 * * *"
    clean = container(rendered(helm, "external").pod("CronJob/regraft-clean"))
    assert clean["args"] == ["regraft", "storage", "clean"]
    assert "AWS_ACCESS_KEY_ID" in variables(clean)
    assert rendered(helm, "external", 'storage.s3.cleanSchedule=""').all("CronJob") == []
    assert rendered(helm, "default").all("CronJob") == []


def test_the_pool_that_makes_jobs_has_the_template_of_their_pods(helm: str, tmp_path: Path) -> None:
    found = rendered(helm, "everything")
    pod = found.pod("Deployment/rg-worker-kubernetes")
    (mount,) = (one for one in container(pod)["volumeMounts"] if one["name"] == "pod-template")
    environment = variables(container(pod))
    assert environment["REGRAFT_KUBERNETES_POD"] == f"{mount['mountPath']}/pod.yaml"
    file = tmp_path / "pod.yaml"
    file.write_text(found.one("ConfigMap", "rg-pod-template")["data"]["pod.yaml"])
    # As the worker reads it.
    options = Options.of({**environment, "REGRAFT_KUBERNETES_POD": str(file), "REGRAFT_KUBERNETES_NAMESPACE": "n"})
    assert (options.nodes, options.node_devices, options.device, options.queue) == (4, 8, "gpu", "research")
    assert options.template()["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert "REGRAFT_KUBERNETES_POD" not in variables(container(found.pod("Deployment/rg-worker-gpu")))


@pytest.mark.parametrize(("device", "repository"), [("gpu", "worker-cuda"), ("cpu", "worker")])
def test_pods_of_trainings_run_the_image_of_this_release(helm: str, device: str, repository: str) -> None:
    template = 'targets.kubernetes.podTemplate={"spec": {"containers": [{"name": "regraft"}, {"name": "beside"}]}}'
    found = rendered(helm, "everything", template, f'targets.kubernetes.device="{device}"')
    made = yaml.safe_load(found.one("ConfigMap", "rg-pod-template")["data"]["pod.yaml"])
    images = {one["name"]: one.get("image") for one in made["spec"]["containers"]}
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images == {"regraft": f"ghcr.io/regraft/{repository}:{version}", "beside": None}


def test_the_account_that_makes_jobs_is_made_with_the_others_or_named(helm: str) -> None:
    assert rendered(helm, "everything").names("ServiceAccount") == {"runner", "rg-launcher"}
    own = ("serviceAccount.create=false", 'targets.kubernetes.serviceAccountName="given"')
    found = rendered(helm, "everything", *own)
    assert found.all("ServiceAccount") == []
    assert found.one("RoleBinding")["subjects"][0]["name"] == "given"
    assert found.pod("Deployment/rg-worker-kubernetes")["serviceAccountName"] == "given"


def test_the_chart_is_whole_as_a_package(helm: str, tmp_path: Path) -> None:
    """What `helm push` sends to a registry."""
    run(helm, "package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.glob("regraft-*.tgz")
    values = ("--values", str(CHART / "ci/everything-values.yaml"))
    of_folder, of_package = (run(helm, "template", "rg", str(one), *values) for one in (CHART, package))
    assert re.sub("password: .*", "", of_package) == re.sub("password: .*", "", of_folder)


def test_the_rights_are_those_that_the_target_documents(helm: str) -> None:
    blocks = re.findall(r"```yaml\n(rules:.*?)```", (CHART.parents[1] / "docs/kubernetes.md").read_text(), re.DOTALL)
    assert rendered(helm, "everything").one("Role")["rules"] == yaml.safe_load(blocks[0])["rules"]


def test_ingress_and_route_lead_to_the_service(helm: str) -> None:
    found = rendered(helm, "everything")
    service = found.one("Service", "rg-api")
    ingress = found.one("Ingress")["spec"]
    assert ingress["tls"] == [{"hosts": ["regraft.example.org"], "secretName": "regraft-tls"}]
    backend = ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "rg-api", "port": {"name": service["spec"]["ports"][0]["name"]}}
    route = found.one("HTTPRoute")["spec"]
    assert route["rules"][0]["backendRefs"] == [{"name": "rg-api", "port": service["spec"]["ports"][0]["port"]}]


def test_priority_classes_are_used_where_they_are_made(helm: str) -> None:
    found = rendered(helm, "everything")
    assert found.names("PriorityClass") == {"rg-control", "rg-work"}
    used = {name: pod.get("priorityClassName") for name, pod in found.pods() if name.startswith("Deployment/rg-")}
    assert used["Deployment/rg-api"] == "rg-control"
    assert used["Deployment/rg-worker-cpu"] == "rg-work"
    assert used["Deployment/rg-worker-gpu-h200"] == "research"


def test_bundled_servers_have_a_password_of_their_own(helm: str) -> None:
    found = rendered(helm, "minimal")
    for secret in found.all("Secret"):
        assert len(base64.b64decode(secret["data"]["password"])) == 32
    assert found.names("Secret") == {"regraft-postgresql", "regraft-redis"}
    assert found.one("StatefulSet")["spec"]["serviceName"] in found.names("Service")
    arguments = container(found.pod("Deployment/regraft-redis"))["args"][0]
    assert "--maxmemory-policy noeviction" in arguments
    assert rendered(helm, "default").all("Secret") == []


def test_the_test_pod_asks_the_api_and_the_doctor(helm: str) -> None:
    pod = rendered(helm, "default").one("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    api, doctor = pod["spec"]["containers"]
    assert "http://regraft-api:8000/readyz" in api["command"][-1]
    assert doctor["args"] == ["regraft", "doctor"]


def test_servicemonitor_sends_a_key(helm: str) -> None:
    def endpoint(values: str) -> Manifest:
        return dict(rendered(helm, values).one("ServiceMonitor")["spec"]["endpoints"][0])

    assert endpoint("external")["authorization"]["credentials"] == {"name": "metrics-key", "key": "token"}
    assert endpoint("everything")["authorization"]["credentials"] == {"name": "regraft-keys", "key": "read"}


def test_extra_objects_are_templates(helm: str) -> None:
    assert rendered(helm, "everything").one("ConfigMap", "regraft-extra")["data"] == {"note": "regraft"}


def test_a_pool_with_a_runtime_makes_train_jobs_and_may_nothing_else(helm: str) -> None:
    settings = ("targets.kubernetes.podTemplate=null", 'targets.kubernetes.runtime="ClusterTrainingRuntime/regraft"')
    found = rendered(helm, "everything", *settings)
    pod = found.pod("Deployment/rg-worker-kubernetes")
    environment = variables(container(pod))
    assert environment["REGRAFT_KUBERNETES_RUNTIME"] == "ClusterTrainingRuntime/regraft"
    assert "REGRAFT_KUBERNETES_POD" not in environment
    assert not any(one["name"] == "pod-template" for one in [*pod["volumes"], *container(pod)["volumeMounts"]])
    assert "rg-pod-template" not in found.names("ConfigMap")
    blocks = re.findall(r"```yaml\n(rules:.*?)```", (CHART.parents[1] / "docs/kubernetes.md").read_text(), re.DOTALL)
    assert found.one("Role")["rules"] == yaml.safe_load(blocks[1])["rules"]
