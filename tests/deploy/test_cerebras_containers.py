"""The image and the profile `cerebras` on a real Docker engine, with the vendor's programs' double for a cluster.

What the double cannot show is in docs/cerebras.md. The package that the image takes is a stand-in as well: it brings a
program of the right name, and has a version that no index has.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import ROOT, Deployed, clean_clone, deployed

from appliance.install import Appliance, install
from helpers import eventually

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not os.environ.get("DOCKER_HOST"), reason="needs a Docker engine: DOCKER_HOST is not set"),
]
INFO = "cerebras_appliance-2.10.0+double.dist-info"
WHEEL = {
    "cerebras_client/__init__.py": "def main():\n    print('of the vendor')\n",
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: cerebras_appliance\nVersion: 2.10.0+double\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/entry_points.txt": "[console_scripts]\ncszoo = cerebras_client:main\n",
    f"{INFO}/RECORD": "",
}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cluster mounts, by the path that it has here: artifacts, the double, and the user's name."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "artifacts").mkdir()
    (folder / "passwd").write_text("root:x:0:0::/:/bin/sh\nnews:x:10001:10001::/tmp:/bin/sh\n")
    shutil.copytree(ROOT / "tests/appliance", folder / "tests/appliance")
    return folder


@pytest.fixture(scope="module")
def appliance(export: Path) -> Appliance:
    tests, python = export / "tests", "/opt/regraft/bin/python"
    made = install(export / "appliance", python=python, tests=tests, lease_seconds_real=600.0)
    (made.folder / "bin/get-cerebras-token").write_text("#!/bin/sh\necho a token\n")
    (made.folder / "bin/get-cerebras-token").chmod(0o755)
    for path in (export, *export.rglob("*")):
        path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o666))
    return made


def vendor_wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "cerebras_appliance-2.10.0+double-py3-none-any.whl", "w") as wheel:
        for name, text in WHEEL.items():
            wheel.writestr(name, text)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, export: Path, appliance: Appliance) -> Iterator[Deployed]:
    source = clean_clone(tmp_path_factory.mktemp("clone"))
    site = {
        "CLIENT": str(appliance.client),
        "RELEASE": "2.10",
        "MGMT_ADDRESS": "cluster.invalid:443",
        "MGMT_NAMESPACE": "job-operator",
        "CREDENTIALS_PATH": "/opt/cerebras/tls.crt",
        "MOUNT_DIRS": str(export),
        "POLL_SECONDS": "0.3",
        "SETTLE_SECONDS": "0.3",
    }
    lines = {f"REGRAFT_CEREBRAS_{name}": value for name, value in site.items()}
    lines |= {"COMPOSE_PROFILES": "cerebras", "CEREBRAS_PACKAGES": "cerebras_appliance==2.10.0+double"}
    lines |= {"STATE": str(export / "artifacts"), "STATE_PATH": str(export / "artifacts")}
    lines |= {"CEREBRAS_NFS": str(export), "CEREBRAS_BIN": str(appliance.folder / "bin")}
    lines |= {"CEREBRAS_CONFIG": str(appliance.credentials.parent)}
    lines |= {"CEREBRAS_USER": "news", "CEREBRAS_PASSWD": str(export / "passwd")}
    with deployed(source, "worker-cerebras", between=lambda: vendor_wheel(source / "wheels"), **lines) as found:
        yield found


def test_the_image_has_the_vendors_client_apart_from_ours(running: Deployed) -> None:
    execute = ("exec", "-T", "worker-cerebras")
    assert running.compose(*execute, "cszoo").strip() == "of the vendor"
    assert running.compose(*execute, "sh", "-c", "command -v cszoo").strip() == "/opt/cerebras-client/bin/cszoo"
    assert running.compose.fails(*execute, "python", "-c", "import cerebras_client")
    assert running.compose.fails(*execute, "/opt/cerebras-client/bin/python", "-c", "import regraft")
    assert running.compose(*execute, "/usr/local/bin/get-cerebras-token").strip() == "a token"


def test_its_user_has_the_name_that_the_cluster_knows(running: Deployed) -> None:
    execute = ("exec", "-T", "worker-cerebras")
    assert running.compose(*execute, "id", "-un").strip() == "news"
    assert running.compose(*execute, "python", "-c", "import getpass; print(getpass.getuser())").strip() == "news"
    for place in ("/etc/x", "/opt/cerebras/x", "/opt/cerebras-client/x", "/data/x"):
        assert running.compose.fails(*execute, "touch", place), place


def test_a_job_trains_on_the_cluster(running: Deployed, appliance: Appliance, export: Path) -> None:
    offered = lambda: "cerebras" in str(running.client.get("/capabilities")["targets"])  # noqa: E731
    eventually(offered, seconds=60, what="a worker that offers the cluster")
    running.make_inputs()
    ended = running.await_end(running.run_readme_job(target="cerebras", max_steps=20))
    assert ended["status"] == "succeeded", ended["message"]
    (job,) = (found for found in appliance.jobs(**{"regraft-job": ended["id"]}) if found["kind"] == "execute")
    assert job["phase"] == "SUCCEEDED"
    train = next(stage for stage in ended["stages"] if stage["name"] == "train")["result"]["uri"]
    assert train.startswith(f"file://{export}/artifacts/storage/jobs/")
    assert (Path(train.removeprefix("file://")) / "model.safetensors").is_file()
