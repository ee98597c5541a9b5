"""The chart as Helm renders it, for the tests: each set of values once for each Helm."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm/regraft"
SETS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
HELMS = [path for name in ("helm", "helm3", "helm4") if (path := shutil.which(name))]
"""Every Helm on PATH; without one these tests are skipped."""
RELEASE = "regraft"
NAMESPACE = "training"
Manifest = dict[str, Any]


class HelmError(Exception):
    """What Helm says on standard error."""


@dataclass(frozen=True)
class Rendered:
    """The objects of a release, in the order in which Helm prints them."""

    objects: Sequence[Manifest]
    templates: Sequence[str]
    """Files of the chart that they come from."""

    def all(self, kind: str) -> list[Manifest]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Manifest:
        found = [one for one in self.all(kind) if name is None or one["metadata"]["name"] == name]
        assert len(found) == 1, f"{kind} {name}: {[one['metadata']['name'] for one in self.all(kind)]}"
        return found[0]

    def names(self, kind: str) -> set[str]:
        return {one["metadata"]["name"] for one in self.all(kind)}

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Kind/name of whatever makes pods, and the spec of these."""
        for one in self.objects:
            name = f"{one['kind']}/{one['metadata']['name']}"
            if one["kind"] == "Pod":
                yield name, one["spec"]
            elif one["kind"] == "CronJob":
                yield name, one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            elif "template" in one.get("spec", {}):
                yield name, one["spec"]["template"]["spec"]

    def pod(self, name: str) -> Manifest:
        return dict(self.pods())[name]


def run(helm: str, *arguments: str) -> str:
    done = subprocess.run([helm, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


@cache
def rendered(helm: str, values: str, *settings: str) -> Rendered:
    """The chart with one of the sets in `ci/`, and with further `--set-json` settings."""
    flags = [flag for setting in settings for flag in ("--set-json", setting)]
    file = str(CHART / f"ci/{values}-values.yaml")
    text = run(helm, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", file, *flags)
    objects = [found for found in yaml.load_all(text, yaml.CSafeLoader) if found is not None]
    return Rendered(objects, sorted(set(re.findall(r"^# Source: regraft/templates/(.*)$", text, re.MULTILINE))))


def container(pod: Manifest) -> Manifest:
    """The only container of a pod."""
    assert len(pod["containers"]) == 1
    return dict(pod["containers"][0])


def variables(container_: Manifest) -> dict[str, Any]:
    """Variables of a container: values, or where they come from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container_["env"]}
