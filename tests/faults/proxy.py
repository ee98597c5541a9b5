"""A wire between clients and PostgreSQL that can be cut: a Unix socket that forwards, holds back, or drops replies."""

from __future__ import annotations

import selectors
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from regraft.settings import Settings

SIZE = 1 << 16
PORT = ".s.PGSQL.5432"


class Proxy:
    """Listens in `folder`, forwards to the socket in `target`."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target
        folder.mkdir(parents=True, exist_ok=True)
        self.flowing = threading.Event()
        """Cleared: nothing passes in either direction, and nobody is told (a partition)."""
        self.flowing.set()
        self.drop_reply_to: bytes | None = None
        """The next request with these bytes is passed on, and the connection cut before its reply."""
        self.dropped = 0
        self.at_commit_of: tuple[bytes, Callable[[], None]] | None = None
        """Called once, after the commit of a transaction with these bytes was carried out and before its reply."""
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(folder / PORT))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def drop_commit_of(self, words: bytes) -> None:
        """The next commit of a transaction with these words is carried out, and the connection cut before its reply."""

        def cut() -> None:
            self.dropped += 1
            raise ConnectionAbortedError

        self.at_commit_of = words, cut

    def close(self) -> None:
        self.flowing.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, suppress(OSError), selectors.DefaultSelector() as ready:
            server.connect(str(self._target / PORT))
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            said = b""
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(SIZE)  # type: ignore[union-attr]
                    self.flowing.wait()
                    if not data:
                        return
                    key.data.sendall(data)
                    said += data if key.fileobj is client else b""
                    if b"COMMIT" in said:
                        self._interrupt(server, said)
                        said = b""
                    wanted = self.drop_reply_to
                    if key.fileobj is client and wanted is not None and wanted in data:
                        self.drop_reply_to, self.dropped = None, self.dropped + 1
                        server.recv(SIZE)  # it was carried out, and nobody hears of it
                        return

    def _interrupt(self, server: socket.socket, transaction: bytes) -> None:
        wanted = self.at_commit_of
        if wanted is not None and wanted[0] in transaction:
            self.at_commit_of = None
            _await_reply(server)
            wanted[1]()


def _await_reply(server: socket.socket) -> None:
    """Until there is a reply."""
    with selectors.DefaultSelector() as ready:
        ready.register(server, selectors.EVENT_READ)
        ready.select(10)


@contextmanager
def proxy_to(settings: Settings) -> Iterator[Proxy]:
    """A proxy to these settings' database, for `through`."""
    target = Path(parse_qs(urlsplit(settings.database_url).query)["host"][0])
    with tempfile.TemporaryDirectory() as folder:
        made = Proxy(Path(folder), target)
        yield made
        made.close()


def through(proxy: Proxy, settings: Settings) -> Settings:
    """The same database by way of the proxy."""
    base = settings.database_url.partition("?")[0]
    return settings.model_copy(update={"database_url": f"{base}?host={proxy.folder}"})
