"""Values that cannot work are refused before anything is sent to a cluster, each by a message that names the value."""

from __future__ import annotations

import pytest
from chart_rendering import CHART, HelmError, rendered, run

BY_SCHEMA = {
    "a misspelt value": ("api.replica=3", "api", "replica"),
    "a word for a number": ('api.replicas="three"', "replicas", "integer"),
    "a storage that does not exist": ('storage.kind="nfs"', "kind", "pvc"),
    "an amount of memory that is none": ('dataprep.scratchSize="20 gigabytes"', "scratchSize", "pattern"),
    "a port out of range": ("externalDatabase.port=70000", "externalDatabase", "port"),
    "a setting that does not exist": ("settings.lease_second=30", "settings", "lease_second"),
    "a setting out of range": ("settings.lease_seconds=0", "lease_seconds", "0"),
    "a setting that the chart owns": ('settings.storage_uri="file:///x"', "settings", "storage_uri"),
    "workers that scale to nothing": ("workers.gpu.autoscaling.minReplicas=0", "minReplicas", "1"),
    "a name of a pool that no object can have": ('workers.GPU_1={"enabled":true}', "workers", "GPU_1"),
    "a bucket that is no bucket": ('storage.s3.uri="https://bucket"', "uri", "pattern"),
    "a time that cron does not know": ('storage.s3.cleanSchedule="daily"', "cleanSchedule", "pattern"),
    "a digest that is none": ('api.image.digest="sha256:12"', "digest", "pattern"),
    "a relative folder": ('allowedRoots=["data"]', "allowedRoots", "pattern"),
    "a variable of the wrong type": ('extraEnv=[{"name":"A","value":1}]', "value", "string"),
    "an unknown way to ask for TLS": ('externalDatabase.sslMode="on"', "sslMode", "verify-full"),
    "a volume of two kinds": (
        'dataVolumes=[{"name":"a","mountPath":"/a","volume":{"nfs":{},"emptyDir":{}}}]', "volume", "1",
    ),
    "a release of the appliance's client that is a number": (
        "workers.cerebras.cerebras.release=2.10", "release", "string",
    ),
    "a management node without a port": (
        'workers.cerebras.cerebras.mgmtAddress="cluster.example"', "mgmtAddress", "pattern",
    ),
    "a folder of the appliance that would be two": (
        'workers.cerebras.cerebras.mountDirs=["/a,/b"]', "mountDirs", "pattern",
    ),
    "artifacts at a place that no URI names": ('storage.pvc.mountPath="/a b/"', "mountPath", "pattern"),
}  # fmt: skip
TOGETHER = {
    "no database": ('externalDatabase.existingSecret=""', "externalDatabase.existingSecret", "postgresql.enabled"),
    "no broker": ('externalRedis.existingSecret=""', "externalRedis.existingSecret", "redis.enabled"),
    "two databases": ("postgresql.enabled=true,externalDatabase.host=db", "postgresql.enabled", "choose"),
    "a bucket without a name": ("storage.kind=s3", "storage.s3.uri", "s3://bucket"),
    "Jobs without a template": ("targets.kubernetes.enabled=true", "targets.kubernetes.podTemplate", "docs/"),
    "a template and a runtime": (
        "targets.kubernetes.enabled=true,targets.kubernetes.runtime=a,targets.kubernetes.podTemplate.spec.containers[0].name=regraft",
        "targets.kubernetes.runtime", "TrainJobs",
    ),
    "a route to nowhere": ("httpRoute.enabled=true", "httpRoute.parentRefs", "Gateway"),
    "metrics without a key": ("metrics.serviceMonitor.enabled=true", "keySecret", "regraft keys create"),
    "less time to stop than a stage may take to save": (
        "settings.stop_seconds=600,dataprep.terminationGracePeriodSeconds=300", "terminationGracePeriodSeconds", "600",
    ),
    "fewest above most": ("dataprep.autoscaling.enabled=true,dataprep.autoscaling.minReplicas=9", "dataprep", "max"),
    "a pool that follows no queue": (
        "workers.big.enabled=true,workers.big.autoscaling.enabled=true", "queues of big", "train.gpu",
    ),
    "a Prometheus that is nowhere": (
        "dataprep.autoscaling.enabled=true,keda.source=prometheus", "keda.prometheusAddress", "say where",
    ),
    "a user of the appliance without a number": (
        "workers.cerebras.enabled=true,workers.cerebras.cerebras.userName=news", "workers.cerebras.runAsUser", "number",
    ),
}  # fmt: skip
SITE = "workers.cerebras.cerebras"
OF_A_SITE = {
    "a pool without a client": (f'{SITE}.client=""', f"{SITE}.client", "docs/cerebras.md"),
    "a client without a release": (f'{SITE}.release=""', f"{SITE}.release", "docs/cerebras.md"),
    "no management node": (f'{SITE}.mgmtAddress=""', f"{SITE}.mgmtAddress", "docs/cerebras.md"),
    "no namespace": (f'{SITE}.mgmtNamespace=""', f"{SITE}.mgmtNamespace", "docs/cerebras.md"),
    "no folder": (f"{SITE}.mountDirs=[]", f"{SITE}.mountDirs", "docs/cerebras.md"),
    "artifacts that the cluster does not see": (
        'storage.pvc.mountPath="/var/lib/regraft"', f"{SITE}.mountDirs", "/var/lib/regraft", "storage.pvc.mountPath",
    ),
    "a folder that only begins like the artifacts'": (f'{SITE}.mountDirs=["/srv/projects/re"]', f"{SITE}.mountDirs"),
    "artifacts in a bucket": ('storage={"kind":"s3","s3":{"uri":"s3://artifacts/regraft"}}', "storage.kind: pvc"),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_SCHEMA)
def test_the_schema_refuses(helm: str, case: str) -> None:
    setting, *named = BY_SCHEMA[case]
    with pytest.raises(HelmError) as refusal:
        rendered(helm, "default", setting)
    assert "schema" in str(refusal.value)
    for word in named:
        assert word in str(refusal.value), str(refusal.value)


@pytest.mark.parametrize("case", TOGETHER)
def test_what_does_not_fit_together_is_refused(helm: str, case: str) -> None:
    settings, *named = TOGETHER[case]
    with pytest.raises(HelmError) as refusal:
        rendered(helm, "default", *(as_json(setting) for setting in settings.split(",")))
    for word in named:
        assert word in str(refusal.value), str(refusal.value)


@pytest.mark.parametrize("case", OF_A_SITE)
def test_a_pool_that_would_offer_no_cluster_is_refused(helm: str, case: str) -> None:
    setting, *named = OF_A_SITE[case]
    with pytest.raises(HelmError) as refusal:
        rendered(helm, "cerebras", setting)
    for word in named:
        assert word in str(refusal.value), str(refusal.value)


def as_json(setting: str) -> str:
    """`a=b` as Helm's `--set-json` wants it: words in quotation marks."""
    name, _, value = setting.partition("=")
    plain = value.isdecimal() or value in ("true", "false") or value.startswith('"')
    return setting if plain else f'{name}="{value}"'


def test_an_old_cluster_is_refused(helm: str) -> None:
    with pytest.raises(HelmError, match="1\\.25"):
        run(helm, "template", str(CHART), "--kube-version", "1.24.0")
