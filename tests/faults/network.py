"""Another machine's network: a namespace of its own, and one cable to the servers, which can be pulled."""

from __future__ import annotations

import os
import secrets
import selectors
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from regraft.settings import Settings

HERE, THERE = "198.18.77.1", "198.18.77.2"
"""Of the range that RFC 2544 keeps for tests."""
SIZE = 1 << 16


class Elsewhere:
    """A namespace whose only way out is a cable; `within` begins a command that runs there."""

    def __init__(self, name: str) -> None:
        self.within = ["ip", "netns", "exec", name]
        self.cable = name

    def pull(self) -> None:
        """From now on nothing passes, and nobody is told."""
        ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """It passes again."""
        ip("link", "set", self.cable, "up")


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True)


def can_be_made() -> bool:
    """Whether this machine lets us make a namespace and a cable into it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        with elsewhere():
            return True
    except subprocess.CalledProcessError:
        return False


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Made, and taken away at the end."""
    name = f"regraft{secrets.token_hex(3)}"  # a namespace that is deleted is gone some time later
    ip("netns", "add", name)
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", f"{HERE}/30", "dev", name)
        ip("link", "set", name, "up")
        for command in (("address", "add", f"{THERE}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            ip("-n", name, *command)
        yield Elsewhere(name)
    finally:
        ip("netns", "delete", name)  # the cable goes with it


@contextmanager
def reached_from_there(settings: Settings) -> Iterator[Settings]:
    """Settings with which a process in the namespace reaches the servers, which listen on this machine alone."""
    database, broker = urlsplit(settings.database_url), urlsplit(settings.redis_url)
    path = Path(parse_qs(database.query)["host"][0]) / ".s.PGSQL.5432"
    assert broker.port is not None
    with ExitStack() as open_ones:
        to_database = open_ones.enter_context(_relay(lambda: _unix(path)))
        to_broker = open_ones.enter_context(_relay(lambda: socket.create_connection(("127.0.0.1", broker.port))))
        urls = {
            "database_url": f"postgresql://{database.username}@{HERE}:{to_database}{database.path}",
            "redis_url": f"redis://{HERE}:{to_broker}{broker.path}",
        }
        yield settings.model_copy(update=urls)


def _unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    return made


@contextmanager
def _relay(connect: Callable[[], socket.socket]) -> Iterator[int]:
    """A port on this side of the cable; each connection to it goes on to `connect()`."""
    with closing(socket.create_server((HERE, 0))) as server:
        threading.Thread(target=_accept, args=(server, connect), daemon=True).start()
        yield server.getsockname()[1]
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, connect: Callable[[], socket.socket]) -> None:
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            threading.Thread(target=_pass_on, args=(client, connect), daemon=True).start()


def _pass_on(client: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Both ways, until one of them has ended."""
    with client, suppress(OSError), connect() as server, selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ, server)
        ready.register(server, selectors.EVENT_READ, client)
        while True:
            for key, _ in ready.select():
                data = key.fileobj.recv(SIZE)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)
