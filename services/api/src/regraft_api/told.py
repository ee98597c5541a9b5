"""An event as those who watch get it: made once, however many they are."""

from __future__ import annotations

from typing import NamedTuple

from regraft.jobs import JOB_ENDED
from regraft.models import Event
from regraft_api.schemas import EventView

ENDED = {str(status) for status in JOB_ENDED}


class Told(NamedTuple):
    """One server-sent event."""

    seq: int
    text: bytes
    is_last: bool
    """The job has ended with it."""

    @classmethod
    def of(cls, event: Event) -> Told:
        """The event as text."""
        data = EventView.of(event).model_dump_json()
        text = f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode()
        is_last = event.stage is None and event.type == "state" and (event.data or {}).get("status") in ENDED
        return cls(event.seq, text, is_last)
