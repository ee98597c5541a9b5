"""`regraft up` with its embedded servers: starts, refuses clearly, stops clean, goes on where it was."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deployment import answers

from helpers import eventually
from inputs import write_checkpoint_headers
from regraft.client import ApiError, Client
from regraft.embedded import free_port
from regraft.keyfile import read_key


def environment() -> dict[str, str]:
    """This process's, without any of Regraft's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REGRAFT_")}


@contextmanager
def up(home: Path, *, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "regraft", "up", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "stop with" in line:
                break
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def client_of(home: Path, port: int) -> Client:
    """With the key that is in the data folder."""
    return Client(f"http://127.0.0.1:{port}", key=read_key(home))


def command(home: Path, port: int, *arguments: str) -> str:
    """What a command of this user prints, finding API and key as the README says."""
    place = {"REGRAFT_HOME": str(home), "REGRAFT_API_URL": f"http://127.0.0.1:{port}"}
    words = [sys.executable, "-m", "regraft", *arguments]
    return subprocess.run(words, env={**environment(), **place}, check=True, capture_output=True, text=True).stdout


def health_of(home: Path, port: int) -> dict[str, str]:
    """What `regraft doctor` finds: each thing and its state."""
    return {line.split()[1]: line.split()[0] for line in command(home, port, "doctor").splitlines() if line[0] != " "}


def processes_of(home: Path) -> list[str]:
    """Command lines of everything that knows the data folder, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            known = entry.name.isdecimal() and str(home) in command + (entry / "environ").read_text(errors="replace")
        except OSError:
            continue
        if known and command and int(entry.name) != os.getpid():
            found.append(command)
    return found


def refusal(*arguments: str) -> str:
    command = [sys.executable, "-m", "regraft", "up", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def job(folder: Path) -> dict[str, object]:
    """A job that is accepted, and whose first stage will find no story."""
    (folder / "corpus").write_text("no story")
    base = write_checkpoint_headers(folder / "base")
    dataset = {"uri": str(folder / "corpus"), "max_sequence_length": 64}
    return {"dataset": dataset, "base_checkpoint": {"uri": str(base)}, "target": {"kind": "cpu"}}


def test_it_starts_refuses_a_second_and_stops_clean(tmp_path: Path) -> None:
    # A long path, deeper than a Unix socket's name may be, with a blank in it.
    home = tmp_path / ("a long name " * 8) / "data"
    home.parent.mkdir()
    port = free_port()
    with up(home, port=port), client_of(home, port) as client:
        assert client.list_jobs()["data"] == []
        assert stat.S_IMODE((home / "api-key").stat().st_mode) == stat.S_IMODE((home / "servers.json").stat().st_mode)
        assert stat.S_IMODE((home / "api-key").stat().st_mode) == 0o600
        with Client(f"http://127.0.0.1:{port}", key="") as stranger, pytest.raises(ApiError, match="REGRAFT_API_KEY"):
            stranger.list_jobs()
        made = command(home, port, "keys", "create", "--scope", "read", "--name", "dashboard").strip()
        assert "dashboard" in command(home, port, "keys", "list")
        with Client(f"http://127.0.0.1:{port}", key=made) as reader:
            assert reader.list_jobs()["data"] == []
        health = health_of(home, port)
        assert all(health[name] == "ok" for name in ("database", "migrations", "broker", "devices", "drain")), health
        command(home, port, "drain", "on", "--note", "moving")
        assert health_of(home, port)["drain"] == "warning"
        command(home, port, "drain", "off")
        assert health_of(home, port)["drain"] == "ok"
        assert "running at most 2" in command(home, port, "limits", "default", "--running", "2")
        assert "is running on this folder" in refusal("--home", str(home), "--port", str(free_port()))
        assert "choose another port" in refusal("--home", str(tmp_path / "other"), "--port", str(port))
        assert len(processes_of(home)) >= 6
    assert processes_of(home) == []
    assert not listens(port)


def test_it_mends_itself_and_when_killed_leaves_its_data_and_nothing_else(tmp_path: Path) -> None:
    home, port = tmp_path / "data", free_port()
    with up(home, port=port) as stack, client_of(home, port) as client:
        victims = [pid for pid in children(stack.pid) if "serve api" in command_of(pid)]
        os.kill(victims[0], signal.SIGKILL)
        eventually(lambda: answers(client), what="the API")
        job_id = client.create_job(job(tmp_path))["id"]
        stack.kill()
        stack.wait()
        eventually(lambda: not processes_of(home), what="everything stopping")
    with up(home, port=port), client_of(home, port) as client:
        assert [found["id"] for found in client.list_jobs()["data"]] == [job_id]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
