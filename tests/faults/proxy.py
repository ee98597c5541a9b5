"""A wire between workers and PostgreSQL that can be cut: a Unix socket that forwards, holds back, or drops replies."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from pathlib import Path

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
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(folder / PORT))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

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
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(SIZE)  # type: ignore[union-attr]
                    self.flowing.wait()
                    if not data:
                        return
                    key.data.sendall(data)
                    wanted = self.drop_reply_to
                    if key.fileobj is client and wanted is not None and wanted in data:
                        self.drop_reply_to, self.dropped = None, self.dropped + 1
                        server.recv(SIZE)  # it was carried out, and nobody hears of it
                        return
