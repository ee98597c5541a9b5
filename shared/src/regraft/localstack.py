"""`regraft up`: every process of a deployment on one machine, supervised in one terminal.

Servers whose URL is set are used as they are; the others are embedded. A process that dies is started again. Ctrl-C or
SIGTERM stops the workers first, so that a running stage saves and is handed back, and the servers last. The data
folder is all that remains, and the next `regraft up` on it goes on where this one stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from regraft.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey, free_port
from regraft.errors import ConflictError, RegraftError
from regraft.jobstore import Keys, Scope, Workers, make_engine, migrate
from regraft.jobstore.losses import Losses
from regraft.keyfile import NAME, read_key, write_key
from regraft.processes import end_with_parent
from regraft.settings import Settings
from regraft.takeover import Successor

PROCESSES = ("api", "dispatcher", "dataprep", "worker")
WORKERS = ("dataprep", "worker")
EMBEDDED: dict[str, type[EmbeddedPostgres] | type[EmbeddedValkey]] = {
    "database_url": EmbeddedPostgres,
    "redis_url": EmbeddedValkey,
}
SERVERS = "servers.json"  # URLs of the embedded ones, while they run; with a password, so for this user alone
POLL_SECONDS = 0.25
RESTART_SECONDS = 2.0
READY_SECONDS = 120.0


def run(settings: Settings) -> None:
    """Run until told to stop.

    Raises:
        ConflictError: the port or the data folder is in use.
        RegraftError: a server or process does not start.
    """
    stop = StopSignal()
    settings.home.mkdir(parents=True, exist_ok=True)
    with _sole_owner(settings.home):
        settings = _with_free_port(settings)
        with _servers(settings) as (settings, servers):
            engine = make_engine(settings)
            migrate(engine)
            _keep_key(Keys(engine), settings.home)
            settings = settings.model_copy(update={"allowed_roots": settings.allowed_roots or "/"})
            processes = [Process(name, settings) for name in PROCESSES]
            successor = Successor(Losses(engine, settings), settings)
            try:
                _start(processes, Workers(engine), settings, stop)
                while not stop.is_set:
                    _revive(servers, processes)
                    successor.look()
                    time.sleep(POLL_SECONDS)
            finally:
                typer.echo("stopping: running stages save and are handed back ...")
                _stop(processes, settings.stop_seconds)
                engine.dispose()
    typer.echo("stopped")


def _keep_key(keys: Keys, home: Path) -> None:
    """A key that the user of this machine finds in `home`, made once."""
    if keys.find(read_key(home)) is None:
        _, key = keys.create(name="regraft up", scope=Scope.ADMIN)
        write_key(home, key)


class StopSignal:
    """Remembers SIGINT and SIGTERM instead of raising in the middle of something."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._set())

    def _set(self) -> None:
        self.is_set = True


class Process:
    """One `regraft serve ...` with its log."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.log = settings.log_folder / f"{name}.log"
        self._environment = {**os.environ, **_environment(settings)}
        self._started = 0.0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start it in a session of its own: Ctrl-C in the terminal is for the supervisor."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "regraft", "serve", self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )
        self._started = time.monotonic()

    def exit_status(self) -> int | None:
        """None while it runs."""
        return None if self._child is None else self._child.poll()

    def revive(self) -> None:
        """Start it again if it has died, not more often than every `RESTART_SECONDS`."""
        status = self.exit_status()
        if status is not None and time.monotonic() - self._started > RESTART_SECONDS:
            typer.echo(f"{self.name} ended with status {status}; starting it again (log: {self.log})")
            self.start()

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def wait(self, deadline: float) -> None:
        """Until it has stopped; killed after the deadline (monotonic seconds)."""
        if self._child is None:
            return
        try:
            self._child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _start(processes: list[Process], workers: Workers, settings: Settings, stop: StopSignal) -> None:
    """Start everything, and say so once requests and stages will be taken."""
    for process in processes:
        process.start()
    deadline = time.monotonic() + READY_SECONDS
    while not stop.is_set and not (_listens(settings) and _workers_ready(processes, workers)):
        died = next((process for process in processes if process.exit_status() is not None), None)
        if died is not None or time.monotonic() > deadline:
            name, log = (died.name, died.log) if died else ("a process", settings.log_folder)
            raise RegraftError(f"{name} did not start", remedy=f"Its log is {log}.", reason="start_failed")
        time.sleep(POLL_SECONDS)
    if not stop.is_set:
        url = f"http://{settings.api_host}:{settings.api_port}"
        typer.echo(f"Regraft is up at {url}  (documentation: {url}/docs)")
        typer.echo(f"key: {settings.home / NAME} (this user's commands find it)")
        typer.echo(f"data and logs: {settings.home}; stop with Ctrl-C")


def _revive(servers: list[EmbeddedServer], processes: list[Process]) -> None:
    for server in servers:
        if server.has_died():
            typer.echo(f"{server.name} has died; starting it again (log: {server.log})")
            server.start()
    for process in processes:
        process.revive()


def _stop(processes: list[Process], seconds: float) -> None:
    """Workers first: they still need database and broker."""
    for names in (WORKERS, PROCESSES):
        chosen = [process for process in processes if process.name in names]
        deadline = time.monotonic() + seconds + 10
        for process in chosen:
            process.terminate()
        for process in chosen:
            process.wait(deadline)


@contextmanager
def _sole_owner(home: Path) -> Iterator[None]:
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                "another `regraft up` is running on this folder",
                field="home",
                value=str(home),
                remedy="Stop it, or choose another folder with --home.",
            ) from error
        yield


@contextmanager
def _servers(settings: Settings) -> Iterator[tuple[Settings, list[EmbeddedServer]]]:
    """Embedded servers for the URLs that are not set; stopped at the end, the first started last."""
    servers: list[EmbeddedServer] = []
    update: dict[str, str] = {}
    try:
        for name, make in EMBEDDED.items():
            if getattr(settings, name):
                continue
            server: EmbeddedServer = make(settings.home / make.name)
            servers.append(server)
            server.start()
            update[name] = server.url
        (settings.home / SERVERS).write_text(json.dumps(update))
        (settings.home / SERVERS).chmod(0o600)
        yield settings.model_copy(update=update), servers
    finally:
        (settings.home / SERVERS).unlink(missing_ok=True)
        for server in reversed(servers):
            server.stop()


def with_running_servers(settings: Settings) -> Settings:
    """The settings with the servers of the `regraft up` that runs on `home`, where none are named."""
    try:
        urls = json.loads((settings.home / SERVERS).read_text())
    except FileNotFoundError:
        return settings
    return settings.model_copy(update={name: url for name, url in urls.items() if not getattr(settings, name)})


def _with_free_port(settings: Settings) -> Settings:
    if settings.api_port == 0:
        return settings.model_copy(update={"api_port": free_port()})
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.api_host, settings.api_port))
        except OSError as error:
            raise ConflictError(
                f"cannot listen on port {settings.api_port}: {error.strerror}",
                field="port",
                value=settings.api_port,
                remedy="Stop what uses it, or choose another port with --port.",
            ) from error
    return settings


def _environment(settings: Settings) -> dict[str, str]:
    return {f"REGRAFT_{name.upper()}": str(value) for name, value in settings.model_dump().items()}


def _listens(settings: Settings) -> bool:
    try:
        socket.create_connection((settings.api_host, settings.api_port), timeout=1).close()
    except OSError:
        return False
    return True


def _workers_ready(processes: list[Process], workers: Workers) -> bool:
    wanted = {str(process.pid) for process in processes if process.name in WORKERS}
    return wanted <= {worker.name.rsplit("-", 1)[1] for worker in workers.alive()}
