"""Every set of values gives manifests that Kubernetes knows, under every Helm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from chart_rendering import CHART, HELMS, SETS, rendered, run
from chart_schemas import NEWEST, OLDEST, problems


def test_there_are_the_sets_that_are_promised() -> None:
    promised = {"default", "minimal", "everything", "external", "air-gapped", "gpu", "cerebras", "openshift"}
    assert promised <= set(SETS)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", SETS)
def test_every_manifest_is_valid(helm: str, values: str, version: str) -> None:
    found = rendered(helm, values)
    assert len(found.objects) > 8
    for manifest in found.objects:
        assert problems(manifest, version) == [], (manifest["kind"], manifest["metadata"]["name"])


@pytest.mark.parametrize("values", SETS)
def test_names_are_unique_and_short(helm: str, values: str) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered(helm, values).objects]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_every_template_is_used_by_some_set(helm: str) -> None:
    templates = {str(path.relative_to(CHART / "templates")) for path in (CHART / "templates").rglob("*.yaml")}
    assert templates == {source for values in SETS for source in rendered(helm, values).templates}


def test_helm_finds_nothing_to_complain_of(helm: str) -> None:
    assert "0 chart(s) failed" in run(helm, "lint", "--strict", str(CHART))


@pytest.mark.skipif(len(HELMS) < 2, reason="fewer than two Helms on PATH")
@pytest.mark.parametrize("values", SETS)
def test_every_helm_renders_the_same(values: str) -> None:
    first, *others = [without_chance(rendered(helm, values).objects) for helm in HELMS]
    assert all(other == first for other in others)


def without_chance(objects: Any) -> Any:
    kept = copy.deepcopy([one for one in objects if one["kind"] != "Secret"])  # made passwords are drawn anew
    return sorted(kept, key=lambda one: (one["kind"], one["metadata"]["name"]))


def test_an_object_with_a_misspelt_field_would_be_found(helm: str) -> None:
    deployment = copy.deepcopy(rendered(helm, "default").one("Deployment", "regraft-api"))
    pod = deployment["spec"]["template"]["spec"]
    pod["terminationGracePeriod"] = pod.pop("terminationGracePeriodSeconds")
    assert any("terminationGracePeriod" in problem for problem in problems(deployment))
    scaled = copy.deepcopy(rendered(helm, "gpu").all("ScaledObject")[0])
    scaled["spec"]["minReplicas"] = scaled["spec"].pop("minReplicaCount")
    assert any("minReplicas" in problem for problem in problems(scaled))
