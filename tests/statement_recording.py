"""The SQL that this version sends through a job's life, with its values, as a file that later versions replay.

    PYTHONPATH=tests python tests/statement_recording.py tests/assets/statements-0.1.sql

is run when a minor version is released. `replay` sends the statements of an older version to the newest schema: what it
did must still be possible, and each statement must find as many rows as it did.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, event

from helpers import spec
from regraft.embedded import EmbeddedPostgres
from regraft.jobs import StageName
from regraft.jobstore import Announcements, Claim, Jobs, Keys, Leases, Outcome, Report, Scope, Workers, make_engine
from regraft.jobstore import migrate as bring_up_to_date
from regraft.settings import Settings

LINE = "-- rows: "
METRIC = {"name": "train_loss", "step": 10, "value": 2.5, "tokens_seen": 640}
EVENT = {"message": "half way", "level": "info", "data": {"step": 10}}
ARTIFACT = {"kind": "checkpoint", "uri": "file:///s/step-10", "metadata": {"step": 10, "state": "complete"}}
RESULTS: dict[str, dict[str, Any]] = {
    "prepare": {"uri": "file:///d", "address": "d"},
    "convert": {"uri": "file:///c"},
    "train": {"uri": "file:///t", "step": 10, "tokens_seen": 640},
    "evaluate": {"uri": "file:///e", "scores": {}},
    "export": {"artifacts": {}},
}


def life(engine: Engine, settings: Settings) -> str:
    """A key, a worker, and a job from its creation to its end; the id of the job."""
    _, key = Keys(engine).create(name="recorded", scope=Scope.WRITE)
    assert Keys(engine).find(key)
    workers, leases, announcements = Workers(engine), Leases(engine, settings), Announcements(engine, settings)
    for _ in range(2):
        workers.seen("w1", service="worker", version="0", queues=["train.cpu"], offers={"targets": {"cpu": {}}})
    job = Jobs(engine).create(spec())
    for name in RESULTS:
        announcements.send(lambda *_: None)
        assert f"{job.id}.{name}" in leases.ready([name, f"{name}.cpu"])
        claim = leases.claim(f"{job.id}.{name}", worker="w1")
        assert claim is not None
        _work(leases, claim)
        leases.finish(claim, Outcome(status="succeeded", result=RESULTS[name]))
    assert (announcements.reclaim(), announcements.repeat(is_empty=lambda _: True), announcements.admit()) == (0, 0, 0)
    assert Jobs(engine).get(job.id).status == "succeeded"
    workers.gone("w1")
    return job.id


def _work(leases: Leases, claim: Claim) -> None:
    leases.renew(claim)
    leases.wanted(claim)
    if claim.stage is StageName.TRAIN:
        report = Report(progress={"step": 10}, metrics=[METRIC], events=[EVENT], artifacts=[ARTIFACT])
        for _ in range(2):  # the second time it is there already
            leases.report(claim, report)


def recorded(engine: Engine, settings: Settings) -> str:
    """The statements of `life`, each with the number of rows that it touched or found."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        text = psycopg.ClientCursor(cursor.connection).mogrify(statement, parameters)
        found.append(f"{LINE}{cursor.rowcount}\n{text.strip()};\n")

    event.listen(engine, "after_cursor_execute", note)
    life(engine, settings)
    event.remove(engine, "after_cursor_execute", note)
    return "\n".join(found)


def statements(file: Path) -> Iterator[tuple[int, str]]:
    """Number of rows and text of each statement of a recording."""
    for part in file.read_text(encoding="utf-8").split(LINE)[1:]:
        rows, _, text = part.partition("\n")
        yield int(rows), text.strip().removesuffix(";")


def replay(file: Path, url: str) -> list[str]:
    """Send a recording to a database with an empty schema; what did not go as it did then."""
    wrong: list[str] = []
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        for rows, text in statements(file):
            try:
                count = connection.execute(text.encode()).rowcount
            except psycopg.Error as error:
                wrong.append(f"{error}: {text}")
            else:
                wrong += [] if count == rows else [f"{count} rows and not {rows}: {text}"]
    return wrong


def main(target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder, "postgres"))
        server.start()
        try:
            settings = Settings(database_url=server.url)
            engine = make_engine(settings)
            bring_up_to_date(engine)
            Path(target).write_text(re.sub(r"[ \t]+\n", "\n", recorded(engine, settings)), encoding="utf-8")
            engine.dispose()
        finally:
            server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
