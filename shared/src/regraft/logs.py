"""Logs of the long-running processes: one line a record, on standard error."""

from __future__ import annotations

import logging

from regraft.settings import Settings


def log_to_stderr(settings: Settings) -> None:
    """Send every logger's records of `settings.log_level` and above to standard error."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
