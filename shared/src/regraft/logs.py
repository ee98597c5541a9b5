"""Logs of the long-running processes: one record a line, on standard error.

As JSON each record is an object with `time`, `level`, `logger`, `message`, and the ids that `bound` has set: of a job,
a stage and an attempt, or of a request. Output of stage processes is not this: it is kept as they write it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from regraft.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ids: ContextVar[dict[str, str | int] | None] = ContextVar("ids of the work at hand", default=None)


@contextmanager
def bound(**ids: str | int) -> Iterator[None]:
    """Add ids to every record of this thread (or task) inside the block, e.g. `job=`, `stage=`, `attempt=`."""
    token = _ids.set({**(_ids.get() or {}), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


class JsonLines(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Times are RFC 3339, in UTC."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_ids.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(settings: Settings) -> None:
    """Send every logger's records of `settings.log_level` and above to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
