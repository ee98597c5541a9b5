"""What the deployment can do now, and what waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from regraft import recipes
from regraft.families import FAMILIES
from regraft.formats import FORMAT_NAMES
from regraft.models import Worker
from regraft_api.dependencies import After, Caller, Limit
from regraft_api.schemas import Page, cut
from regraft_api.schemas_fleet import Capabilities, Queue, QueueView, TargetView, WaitingView, WorkerView

router = APIRouter(tags=["fleet"])


@router.get("/capabilities", operation_id="getCapabilities", summary="What can be asked for now")
def get_capabilities(call: Caller) -> Capabilities:
    """Targets and corpora of running workers, from their heartbeats; families and formats of this version."""
    alive = call.context.workers.alive()
    sources = {source for worker in alive for source in worker.offers.get("sources", [])}
    return Capabilities(
        targets=_targets(alive),
        families=[family.name for family in FAMILIES],
        sources=sorted(sources),
        formats=list(FORMAT_NAMES),
        recipes=recipes.names(),
        workers=len(alive),
    )


@router.get("/workers", operation_id="listWorkers", summary="Running workers")
def list_workers(call: Caller, after: After = None, limit: Limit = 20) -> Page[WorkerView]:
    """By name, from their heartbeats: those that were heard of within a minute."""
    alive = {worker.name: worker for worker in call.context.workers.alive()}
    names, more = cut(alive, after=after, limit=limit)
    return Page[WorkerView].of([WorkerView.of(alive[name]) for name in names], more)


@router.get("/queue", operation_id="getQueue", summary="What waits for a worker")
def get_queue(call: Caller, after: After = None, limit: Limit = 20) -> Queue:
    """The caller's ready stages, those that have waited longest first; and how full the queues are."""
    rows, more = call.reading.waiting(project=call.principal.project, after=after, limit=limit)
    page = Page[WaitingView].of([WaitingView.of(row) for row in rows], more)
    alive = call.context.workers.alive()
    queues = [
        QueueView(
            queue=depth.queue,
            ready=depth.ready,
            running=depth.running,
            oldest_seconds=round(depth.oldest_seconds, 3),
            workers=sum(depth.queue in worker.queues for worker in alive),
        )
        for depth in call.reading.queues()
    ]
    return Queue(**page.__dict__, queues=queues)


def _targets(alive: Sequence[Worker]) -> list[TargetView]:
    facts: dict[str, list[dict[str, Any]]] = {}
    for worker in alive:
        for kind, offered in worker.offers.get("targets", {}).items():
            facts.setdefault(kind, []).append(offered)
    return [
        TargetView(
            kind=kind,
            devices=max(int(one.get("devices", 1)) for one in offered),
            workers=len(offered),
            facts=max(offered, key=lambda one: int(one.get("devices", 1))),
        )
        for kind, offered in sorted(facts.items())
    ]
