"""The process that the hands of a crew are forked from: `python -m regraft_dataprep.origin`, started by `hands`.

It has imported and loaded what all of them need, has one thread, and does nothing but fork and bury, so a fork of it is
sound: nobody else can hold a lock, and what was loaded is there at once, and once in memory. The caller of a
preparation cannot be forked like that: it has threads. What is asked for comes on a socket, a JSON object a message:

    {"tokenizer_uri": ..., "special_tokens": ...}   what to load, first of all
    {"work": path}   fork, with a connection as the message's file descriptor; answer: the process id, or 0: not with
                     threads, which something that is loaded into every Python process may have started
    {"end": pid}     kill it, if it still lives; answer: its exit status, negative for a signal

The trade-off: the hands end with this process, whoever kills it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import orjson

from regraft.errors import RegraftError
from regraft.processes import die_with
from regraft_dataprep.encoders import DifferentIdsError, Loaded, load_both
from regraft_dataprep.hands import MESSAGE_BYTES
from regraft_dataprep.tokenize import load_tokenizer
from regraft_dataprep.units import Units
from regraft_dataprep.work import WorkFolder


def main(lead: str, descriptor: int) -> None:
    """Until the lead closes its end."""
    die_with(lead)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the lead decides
    with socket.socket(fileno=descriptor) as asked:
        loaded = _load(orjson.loads(asked.recv(MESSAGE_BYTES) or b"{}"))
        while loaded is not None:
            message, connections, _, _ = socket.recv_fds(asked, MESSAGE_BYTES, 1)
            if not message:
                return
            wanted = orjson.loads(message)
            answer = _fork(asked, *connections, Path(wanted["work"]), loaded) if connections else _end(wanted["end"])
            asked.send(orjson.dumps(answer))


def threads() -> int:
    """Of this process, also those that Python does not know."""
    return len(list(Path("/proc/self/task").iterdir()))


def _load(wanted: dict[str, str]) -> Loaded | None:
    if not wanted:
        return None
    try:
        tokenizer = load_tokenizer(wanted["tokenizer_uri"], special_tokens=wanted["special_tokens"])  # type: ignore[arg-type]
    except RegraftError:
        return None  # the lead meets the same, and is the one to say so
    return load_both(tokenizer, one_core=True)


def _fork(asked: socket.socket, descriptor: int, work: Path, loaded: Loaded) -> int:
    origin = os.getpid()
    alone = threads() == 1
    pid = os.fork() if alone else 0
    if alone and pid == 0:
        asked.close()
        _live(Connection(descriptor), work, str(origin), loaded)
    os.close(descriptor)  # or the end of this one would not be seen, while a later one has it too
    return pid


def _end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)  # not waited for yet, so the number is still its own
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _live(connection: Connection, work: Path, origin: str, loaded: Loaded) -> NoReturn:
    """All of a hand's life."""
    status = 1
    try:
        die_with(origin)
        serve(connection, work, loaded)
        status = 0
    finally:  # nothing of the origin's is left to a hand: neither its loop nor what it does at its exit
        sys.stderr.flush()
        os._exit(status)


def serve(connection: Connection, path: Path, loaded: Loaded) -> None:
    """Units come in; ticks, errors, and None for done go out."""
    units: Units | None = None
    tick: Callable[[int, int], None] = lambda first, second: connection.send((first, second))  # noqa: E731
    with suppress(EOFError):
        while True:
            unit, cores = connection.recv()
            try:
                units = units or Units(WorkFolder(path), loaded=loaded)  # there is something to prepare by now
                units.run(unit, tick, threads=cores)
            except (RegraftError, OSError, MemoryError, DifferentIdsError) as error:
                connection.send(error)
            else:
                connection.send(None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
