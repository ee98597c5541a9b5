"""Looks at what may hang: remembered, limited in time, never two at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from helpers import eventually
from regraft.errors import StorageFailedError
from regraft_api import looks
from regraft_api.looks import Look


def test_it_is_remembered_for_a_while_and_then_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    look = Look(lambda: taken.append(time.monotonic()))
    assert [look.state() for _ in range(50)] == ["ok"] * 50
    assert len(taken) == 1
    monkeypatch.setattr(looks, "REMEMBER_SECONDS", 0.0)
    assert look.state() == "ok"
    assert len(taken) == 2


def failing(error: Exception) -> Callable[[], None]:
    def look() -> None:
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "state"),
    [(PermissionError(13, "secret"), "PermissionError"), (StorageFailedError("secret"), StorageFailedError.reason)],
)
def test_what_is_wrong_is_said_in_one_word(error: Exception, state: str) -> None:
    assert Look(failing(error)).state() == state


def test_one_that_hangs_is_waited_for_once_and_not_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(looks, "REMEMBER_SECONDS", 0.0)
    server_is_back, taken = threading.Event(), []

    def hang() -> None:
        taken.append(1)
        server_is_back.wait()

    look = Look(hang)
    began = time.monotonic()
    assert look.state() == "timeout"
    assert time.monotonic() - began >= 0.1
    assert [look.state() for _ in range(20)] == ["timeout"] * 20
    assert time.monotonic() - began < 1.0, "a hanging one costs its limit once"
    assert len(taken) == 1
    server_is_back.set()
    eventually(lambda: look.state() == "ok", what="its recovery")
