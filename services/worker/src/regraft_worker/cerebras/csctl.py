"""The cluster's job control, asked through its own command.

Listing reads the table that `csctl get jobs` prints, by its header: which columns there are differs between releases.
A command that fails, hangs or prints something else means that the cluster is unreachable, which says nothing of the
jobs on it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from regraft.cerebrassite import CerebrasSite
from regraft.errors import RegraftError
from regraft.jobs import ReasonClass
from regraft_worker.cerebras.states import ENDED, UNREACHABLE

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(\d+)([smhd])")
_QUEUED = ("QUEUED", "IN_QUEUE")
_LISTINGS = (("get", "jobs", "-a"), ("job", "list", "-a"))
"""The older and the newer words for it."""


class UnreachableError(RegraftError):
    """The cluster did not answer, or not in a way that can be understood."""

    reason = UNREACHABLE
    reason_class = ReasonClass.INFRASTRUCTURE


@dataclass(frozen=True, kw_only=True)
class ListedJob:
    """A row of the table."""

    id: str
    phase: str
    labels: Mapping[str, str]
    kind: str = ""
    """`compile`, `execute`; empty where the table does not say."""
    priority: str = ""
    age: int = 0
    """Seconds since it was made, as exactly as the table says it."""

    @property
    def ended(self) -> bool:
        return self.phase in ENDED


class Csctl:
    """Every method raises UnreachableError."""

    def __init__(self, site: CerebrasSite) -> None:
        self._site = site
        self._listing = 0

    def jobs(self) -> list[ListedJob]:
        """All jobs that the cluster knows of, in its own order."""
        first = self._listing
        for number in (first, 1 - first):
            try:
                text = self._ask(*_LISTINGS[number])
            except UnreachableError as error:
                if number == first and "unknown" in error.message.lower():
                    continue
                raise
            self._listing = number
            return table(text)
        raise UnreachableError("csctl knows no command that lists jobs", value=self._site.csctl)

    def phase(self, job: str) -> str:
        """Where one job stands."""
        text = self._ask("get", "job", job, "-o", "json")
        try:
            found = json.loads(text)["status"]["phase"]
        except (ValueError, KeyError, TypeError) as error:
            raise UnreachableError("csctl answered something else than a job", value=text[:200]) from error
        return str(found).upper()

    def cancel(self, job: str) -> None:
        """Ask for the end of a job."""
        self._ask("cancel", "job", job)

    def _ask(self, *words: str) -> str:
        site = self._site
        namespace = ["--namespace", site.mgmt_namespace] if site.mgmt_namespace else []
        asked = [*site.csctl_command, *words, *namespace]
        try:
            done = subprocess.run(
                asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=site.ask_seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"csctl did not answer in {site.ask_seconds:g} s", value=" ".join(words)) from error
        except OSError as error:
            raise UnreachableError(f"csctl cannot be run: {error.strerror}", value=site.csctl) from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise UnreachableError(f"csctl says: {said[-1] if said else done.returncode}", value=" ".join(words))
        return done.stdout


def table(text: str) -> list[ListedJob]:
    """Rows of a table whose columns begin where their titles do.

    Raises:
        UnreachableError: it is no such table.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or lines[0].lower().startswith("no "):
        return []
    titles = [(found[0].upper(), found.start()) for found in re.finditer(r"\S+", lines[0])]
    if not {"NAME", "PHASE", "LABELS"} <= {title for title, _ in titles}:
        raise UnreachableError("csctl printed no table of jobs", value=lines[0][:200])
    return [_row(titles, line) for line in lines[1:]]


def _row(titles: Sequence[tuple[str, int]], line: str) -> ListedJob:
    ends = [*(start for _, start in titles[1:]), None]
    cells = {title: line[start:end].strip() for (title, start), end in zip(titles, ends, strict=True)}
    pairs = (pair.partition("=") for pair in cells["LABELS"].split(",") if "=" in pair)
    return ListedJob(
        id=cells["NAME"],
        phase=cells["PHASE"].upper(),
        labels={name.strip(): value.strip() for name, _, value in pairs},
        kind=cells.get("TYPE", "").lower(),
        priority=cells.get("PRIORITY", "").lower(),
        age=sum(int(count) * _UNITS[unit] for count, unit in _SPAN.findall(cells.get("AGE", ""))),
    )


def place_in_queue(jobs: Sequence[ListedJob], job: str) -> tuple[int, int] | None:
    """Place of a waiting job, from 1, among all that wait; None: it does not wait. Higher priorities go first."""
    waiting = [listed for listed in jobs if listed.phase in _QUEUED]
    order = sorted(waiting, key=lambda listed: (listed.priority, -listed.age))
    ids = [listed.id for listed in order]
    return (ids.index(job) + 1, len(ids)) if job in ids else None
