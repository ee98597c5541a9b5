"""A share of a fleet in one process: workers are calls, not processes, each made with the project's own store code."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from typing import TypeVar

from regraft.jobstore import Announcements, Claim, Leases, Outcome, Report, Workers, make_engine
from regraft.settings import Settings

QUEUES = ("prepare", "convert", "train.cpu", "evaluate.cpu", "export")
BEAT_SECONDS = 5.0
SWEEP_SECONDS = 2.0
POLL_SECONDS = 0.25
RESULT = {"uri": "file:///x", "address": "x", "step": 1, "tokens_seen": 1, "scores": {}}
T = TypeVar("T")
HEAD = 16
"""Stages at the head of a queue among which a player chooses, so that players seldom want the same one."""


@dataclass(kw_only=True)
class Share:
    """What a process plays, and what it saw."""

    number: int = 0
    workers: int = 0
    """Whose hearts it beats."""
    seconds: float = float("inf")
    """It ends after these, or when nothing is left."""
    stages: int = 0
    beats: int = 0
    missed: int = 0
    """Claims that found the stage taken."""
    took: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each call."""
    cpu: float = 0.0


def play(url: str, share: Share, out: Queue[Share]) -> None:
    """Take turns, each worker as busy as the database lets it be."""
    settings = Settings(database_url=url)
    engine = make_engine(settings)
    leases = Leases(engine, settings)
    pick, idle, started, cpu = random.Random(share.number), 0, time.perf_counter(), time.process_time()
    while idle < 20 and time.perf_counter() - started < share.seconds:
        if turn(leases, share, pick):
            idle = 0
        else:
            idle += 1
            time.sleep(0.05)
    share.cpu = time.process_time() - cpu
    engine.dispose()
    out.put(share)


def beats(url: str, share: Share, begun: Event, done: Event, out: Queue[Share]) -> None:
    """Each worker's heartbeat, one after the other, every `BEAT_SECONDS` or as often as it can be."""
    engine = make_engine(Settings(database_url=url))
    workers, started, cpu = Workers(engine), time.perf_counter(), time.process_time()
    while not done.wait(0.01):
        while share.beats < (time.perf_counter() - started) / BEAT_SECONDS * share.workers and not done.is_set():
            timed(share, "heartbeat", lambda: beat(workers, f"w-{share.beats % share.workers}"))
            share.beats += 1
            begun.set()
    share.cpu = time.process_time() - cpu
    engine.dispose()
    out.put(share)


def turn(leases: Leases, share: Share, pick: random.Random) -> bool:
    """One worker of one queue looks for a stage and does it; False: nothing waits anywhere."""
    # One queue at a time: the last stages of a job are done at the rate of the first, from the beginning.
    ready = timed(share, "ready", lambda: leases.ready([pick.choice(QUEUES)], limit=HEAD))
    ready = ready or leases.ready(QUEUES, limit=HEAD)
    pick.shuffle(ready)
    for stage_id in ready:
        claim = timed(share, "claim", lambda: leases.claim(stage_id, worker=f"w{share.number}"))  # noqa: B023
        if claim is not None:
            work(leases, claim, share)
            share.stages += 1
            return True
        share.missed += 1
    return bool(ready)


def work(leases: Leases, claim: Claim, share: Share) -> None:
    """A stage: one report, one renewal, and its end."""
    point = {"name": "train_loss", "step": 1, "value": 1.0, "tokens_seen": 1}
    report = Report(progress={"step": 1}, metrics=[point])
    timed(share, "report", lambda: leases.report(claim, report))
    timed(share, "renew", lambda: leases.renew(claim))
    timed(share, "finish", lambda: leases.finish(claim, Outcome(status="succeeded", result=RESULT)))


def beat(workers: Workers, name: str) -> None:
    """One heartbeat."""
    workers.seen(name, service="worker", version="0", queues=QUEUES, offers={"targets": {"cpu": {}}})


def dispatch(url: str, done: Event) -> None:
    """A dispatcher whose broker takes everything and whose queues are never empty."""
    settings = Settings(database_url=url)
    engine = make_engine(settings)
    announcements, sweep_at = Announcements(engine, settings), 0.0
    while not done.is_set():
        if time.monotonic() >= sweep_at:
            announcements.reclaim()
            announcements.repeat(is_empty=lambda _: False)
            sweep_at = time.monotonic() + SWEEP_SECONDS
        announcements.admit()
        if not announcements.send(lambda *_: None):
            done.wait(POLL_SECONDS)
    engine.dispose()


def timed(share: Share, name: str, call: Callable[[], T]) -> T:
    """The call's answer; its seconds are kept."""
    started = time.perf_counter()
    answer = call()
    share.took.setdefault(name, []).append(time.perf_counter() - started)
    return answer
