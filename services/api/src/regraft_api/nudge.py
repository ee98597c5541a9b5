"""Telling the dispatcher that jobs were created, so that they start at once and not at its next look.

However many jobs are created, it is told some times a second and no request waits for it. Nothing depends on it.
"""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from regraft.jobstore.notices import nudge

log = logging.getLogger(__name__)

REST_SECONDS = 0.05


class Nudge:
    """Made with the application, starts and stops with it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._due = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; an application may be started again after it has stopped."""
        self._over = False
        self._thread = threading.Thread(target=self._run, name="nudge", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; returns when no connection is in use any more."""
        self._over = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def soon(self) -> None:
        """A job was created. From any thread."""
        self._due.set()

    def _run(self) -> None:
        while True:
            self._due.wait()
            if self._over:
                return
            self._due.clear()
            try:
                nudge(self._engine)
            except SQLAlchemyError as error:
                log.warning("the dispatcher will find new jobs by itself: %s", error)
            time.sleep(REST_SECONDS)
