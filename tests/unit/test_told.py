"""Events as text: whoever has had some of those that were read together gets the others, each once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from regraft.models import Event
from regraft_api.told import Told

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(seq: int, *, type: str = "message", stage: str | None = "train", data: dict[str, Any] | None = None) -> Event:
    given = {"level": "info", "message": f"line {seq}", "created_at": NOON}
    return Event(job_id="job-1", seq=seq, type=type, stage=stage, data=data, **given)


def ids(text: bytes) -> list[int]:
    return [int(line.removeprefix("id: ")) for line in text.decode().split("\n") if line.startswith("id: ")]


@pytest.mark.parametrize(("had", "expected"), [(0, [4, 5, 6]), (3, [4, 5, 6]), (4, [5, 6]), (5, [6]), (6, []), (9, [])])
def test_what_somebody_has_had_is_not_told_again(had: int, expected: list[int]) -> None:
    assert ids(Told.of([event(4), event(5), event(6)]).after(had)) == expected


def test_each_event_is_one_message() -> None:
    first, second, rest = Told.of([event(4), event(5)]).text.split(b"\n\n")
    assert first.startswith(b'id: 4\nevent: message\ndata: {"') and b'"message":"line 4"' in first
    assert second.startswith(b'id: 5\nevent: message\ndata: {"') and b'"message":"line 5"' in second
    assert rest == b""


def test_a_job_ends_with_its_own_last_state_and_not_with_a_stages() -> None:
    failed = {"status": "failed"}
    assert Told.of([event(1, type="state", data=failed)]).ended == 0, "a stage's"
    assert Told.of([event(1, stage=None, type="state", data={"status": "running"})]).ended == 0
    assert Told.of([event(1), event(2, stage=None, type="state", data=failed), event(3)]).ended == 2
