"""Celery over Redis. A message is a stage's id and only a hint: lost, doubled or late ones change nothing.

So it is acknowledged before it is worked on, nothing is stored about its result, and no timeout of the broker matters.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

from celery import Celery, bootsteps
from celery.app.trace import build_tracer
from celery.worker import WorkController, state
from celery.worker.request import Request
from kombu.asynchronous import Hub
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.message import Message

from regraft.errors import InvalidInputError
from regraft.jobs import Priority
from regraft.settings import Settings

TASK = "regraft.run_stage"
ASSIST = "regraft.assist"
BROKER_PRIORITY = {Priority.P1: 0, Priority.P2: 3, Priority.P3: 6}
"""Of a message; the broker keeps a list for each and hands the lowest out first."""
INVITATION_SECONDS = 300
"""A hint to help that nobody has taken for so long is dropped."""
TICK_SECONDS = 0.1


def make_celery(settings: Settings, *, queues: Sequence[str] = ()) -> Celery:
    """A Celery application on `settings.redis_url` that consumes `queues`.

    Raises:
        InvalidInputError: no broker is configured.
    """
    if not settings.redis_url:
        raise InvalidInputError(
            "a Redis URL is needed",
            field="REGRAFT_REDIS_URL",
            remedy="Set it to redis://:password@host:6379/0, or use `regraft up`, which starts a server.",
        )
    app = Celery("regraft", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_default_delivery_mode="transient",
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A broker at its memory limit refuses what a consumer writes: to Celery no lost connection, and it would end.
        broker_channel_error_retry=True,
        # A broker that swallows packets is an error within seconds, not when TCP gives up a quarter of an hour later.
        broker_transport_options={
            "socket_connect_timeout": 5,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "max_retries": 0,  # of who sends: kombu would try for six seconds to reach a broker that is not there
            "queue_order_strategy": "priority",
            "priority_steps": sorted(BROKER_PRIORITY.values()),
        },
        task_queues=[Queue(name) for name in queues],  # type: ignore[no-untyped-call]
        task_create_missing_queues=True,
    )
    app.steps["worker"].add(_Tick)
    return app


class _Tick(bootsteps.StartStopStep):  # type: ignore[misc]
    """Wakes the worker's loop some times a second.

    Without prefetching the loop asks for a message only while the pool is free, and the end of a task does not wake it:
    a hint that waits would lie there until one of Celery's own timers, one or two seconds later.
    """

    requires = ("celery.worker.components:Pool",)

    def register_with_event_loop(self, worker: WorkController, hub: Hub) -> None:
        """Called by Celery each time the loop starts."""
        hub.call_repeatedly(TICK_SECONDS, int)  # type: ignore[no-untyped-call]  # a call that does nothing


def register(app: Celery, run: Callable[[str], None]) -> None:
    """Make `run(stage_id)` the task of running a stage."""
    app.task(run, name=TASK, ignore_result=True)


def register_assistance(app: Celery, assist: Callable[[str], None]) -> None:
    """Make `assist(where)` the task of helping at a work folder."""
    app.task(assist, name=ASSIST, ignore_result=True)


def invite(app: Celery, *, queue: str, where: str, workers: int) -> None:
    """Ask the workers of a queue to help at a work folder. When the broker is away nobody is asked."""
    with suppress(OperationalError):
        for _ in range(workers):
            app.send_task(
                ASSIST,
                args=[where],
                queue=queue,
                retry=False,
                priority=BROKER_PRIORITY[Priority.P3],
                expires=INVITATION_SECONDS,
            )


def hand_over(worker: WorkController, stage_id: str) -> None:
    """Give a worker a task as if a message had come: it waits for the pool's thread, and `celery inspect` shows it."""
    app = worker.app
    task = app.tasks[TASK]
    if task.__trace__ is None:  # the consumer would make it, once the broker has answered
        task.__trace__ = build_tracer(task.name, task, app.loader, worker.hostname, app=app)
    made = app.amqp.as_task_v2(f"polled-{uuid.uuid4()}", TASK, args=[stage_id], ignore_result=True)
    body = json.dumps(made.body)
    message = Message(body=body, headers=made.headers, properties=made.properties)  # type: ignore[no-untyped-call]
    request = Request(message, app=app, hostname=worker.hostname, body=made.body, headers=made.headers, decoded=True)
    state.task_reserved(request)
    request.execute_using_pool(worker.pool)


def is_busy() -> bool:
    """Whether this process's worker has a task, running or waiting for its thread."""
    return bool(state.reserved_requests or state.active_requests)


class Broker:
    """What the dispatcher does with the queue."""

    Unreachable = OperationalError

    def __init__(self, app: Celery) -> None:
        self._app = app

    def publish(self, queue: str, stage_id: str, priority: int = Priority.P2) -> None:
        """Send the hint. Raises `Broker.Unreachable` at once when the broker is away; the outbox tries again."""
        self._app.send_task(
            TASK, args=[stage_id], queue=queue, priority=BROKER_PRIORITY[Priority(priority)], retry=False
        )

    def is_empty(self, queue: str) -> bool:
        """Whether no hint waits in the queue."""
        with self._app.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(queue=queue).message_count) == 0

    def ping(self) -> None:
        """Raises `Broker.Unreachable` when the broker does not answer."""
        with self._app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
