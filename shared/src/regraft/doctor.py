"""What a deployment needs, looked at one by one, each with what to do if it is not there."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from regraft.cerebrassite import CerebrasSite
from regraft.errors import RegraftError
from regraft.jobstore import Operations, Workers, make_engine
from regraft.jobstore.engine import alembic_config, newer_schema
from regraft.settings import Settings
from regraft.storage import is_remote, local_path
from regraft.storage.depot import Depot

State = Literal["ok", "warning", "failed"]
OLDEST_POSTGRES = 13
LEAST_FREE = 10 * 2**30
SCARCE = 0.05


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    state: State
    message: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Database, migrations, broker, storage, disk, devices, drain; then a Cerebras client, if one is set."""
    engine: Engine | None = None
    try:
        engine = make_engine(settings)
        yield from _database(engine)
    except RegraftError as error:
        yield Finding("database", "failed", error.message, error.remedy)
    yield _broker(settings)
    yield _storage(settings)
    yield _disk(settings)
    if engine is not None:
        yield _guarded("devices", lambda: _devices(Workers(engine)))
        yield _guarded("drain", lambda: _drain(Operations(engine)))
        engine.dispose()
    site = CerebrasSite()
    if site.client:
        yield cerebras(site)


def cerebras(site: CerebrasSite) -> Finding:
    """Whether this machine can be a client of the site's Cerebras cluster, and the cluster answers."""
    missing = site.missing()
    if missing:
        remedy = "Mend the REGRAFT_CEREBRAS_ settings; workers here do not offer the target until then."
        return Finding("cerebras", "failed", "; ".join(missing), remedy)
    command = [*site.csctl_command, "get", "jobs"]
    command += ["--namespace", site.mgmt_namespace] if site.mgmt_namespace else []
    remedy = "Check the network and the configuration of csctl. Jobs wait meanwhile."
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=site.ask_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("cerebras", "warning", f"csctl did not answer in {site.ask_seconds:g} s", remedy)
    if asked.returncode:
        said = (asked.stderr.strip() or asked.stdout.strip()).splitlines()[-1:]
        return Finding("cerebras", "warning", f"csctl says: {''.join(said) or asked.returncode}", remedy)
    return Finding("cerebras", "ok", f"release {site.release}; the cluster answers")


def _database(engine: Engine) -> Iterator[Finding]:
    remedy = "Start it, and check REGRAFT_DATABASE_URL and that this machine may connect."
    try:
        with engine.connect() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10000
    except SQLAlchemyError as error:
        yield Finding("database", "failed", f"no connection ({type(error).__name__})", remedy)
        yield Finding("migrations", "failed", "unknown: the database does not answer", remedy)
        return
    if version < OLDEST_POSTGRES:
        yield Finding("database", "failed", f"PostgreSQL {version}", f"Use PostgreSQL {OLDEST_POSTGRES} or newer.")
    else:
        yield Finding("database", "ok", f"PostgreSQL {version}")
    yield _guarded("migrations", lambda: _migrations(engine))


def _migrations(engine: Engine) -> Finding:
    newest = ScriptDirectory.from_config(alembic_config(engine)).get_current_head()
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found == newest:
        return Finding("migrations", "ok", f"the schema is at {found}, the newest")
    if newer_schema(engine) is not None:
        remedy = "It works with the next minor version's schema. Upgrade this process, or finish the rollback."
        return Finding("migrations", "warning", f"the schema is at {found}, newer than this version", remedy)
    return Finding(
        "migrations", "failed", f"the schema is at {found or 'nothing'}, not {newest}", "Run `regraft migrate`."
    )


def _broker(settings: Settings) -> Finding:
    if not settings.redis_url:
        return Finding("broker", "failed", "no broker is configured", "Set REGRAFT_REDIS_URL, or use `regraft up`.")
    try:
        with redis.Redis.from_url(settings.redis_url, socket_connect_timeout=5, socket_timeout=5) as client:
            version = client.info("server")["redis_version"]
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    except redis.RedisError as error:
        remedy = "Start it, and check REGRAFT_REDIS_URL. Jobs wait in the database meanwhile."
        return Finding("broker", "failed", f"no connection ({type(error).__name__})", remedy)
    if policy != "noeviction":
        remedy = "Set maxmemory-policy to noeviction."
        return Finding("broker", "warning", f"it may drop messages when memory is short ({policy})", remedy)
    return Finding("broker", "ok", f"answers as Redis {version}")


def _storage(settings: Settings) -> Finding:
    if is_remote(settings.storage_root):
        return _bucket(settings)
    remedy = "Check REGRAFT_STORAGE_URI, that it is mounted, and who may write there."
    try:
        folder = local_path(settings.storage_root, field="REGRAFT_STORAGE_URI")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as name:
            draft = Path(name, "written")
            draft.write_bytes(os.urandom(4096))
            descriptor = os.open(draft, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            draft.rename(Path(name, "renamed"))
    except RegraftError as error:
        return Finding("storage", "failed", error.message, error.remedy)
    except OSError as error:
        return Finding("storage", "failed", f"{settings.storage_root} cannot be written: {error.strerror}", remedy)
    return Finding("storage", "ok", f"{folder} can be written")


def _bucket(settings: Settings) -> Finding:
    """Written, refused a second time, read and deleted: all that artifacts need."""
    depot = Depot(settings.storage_root, notes=settings.cache_folder / ".uploads")
    key = depot.key(f"{depot.root}/.doctor-{secrets.token_hex(8)}")
    body = os.urandom(4096)
    try:
        depot.bucket.put(key, body, metadata={})
        again = depot.bucket.put(key, b"", metadata={})
        found = depot.bucket.get(key)
        same = found is not None and b"".join(found[1]) == body
        depot.bucket.delete([key])
    except RegraftError as error:
        return Finding("storage", "failed", error.message, error.remedy)
    if again or not same:
        remedy = "Use a store that knows If-None-Match, as AWS, MinIO, Ceph and SeaweedFS do in their newer releases."
        return Finding("storage", "failed", f"{depot.root} lets an object be overwritten that must not be", remedy)
    return Finding("storage", "ok", f"{depot.root} can be written, and knows conditional writes")


def _disk(settings: Settings) -> Finding:
    here = settings.cache_folder if is_remote(settings.storage_root) else local_path(settings.storage_root)
    folder = _existing(here)
    usage = shutil.disk_usage(folder)
    message = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.1f} GiB are free at {folder}"
    if usage.free < min(LEAST_FREE, SCARCE * usage.total):
        return Finding("disk", "warning", message, "Make room: a checkpoint that does not fit fails its stage.")
    return Finding("disk", "ok", message)


def _devices(workers: Workers) -> Finding:
    found: dict[str, int] = {}
    for worker in workers.alive():
        for kind, offer in worker.offers.get("targets", {}).items():
            found[kind] = found.get(kind, 0) + int(offer.get("devices", 1))
    if found:
        return Finding("devices", "ok", ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())))
    remedy = "Start `regraft serve worker` where the hardware is, or `regraft up`."
    return Finding("devices", "warning", "no compute worker is running, so jobs wait", remedy)


def _drain(operations: Operations) -> Finding:
    switch = operations.maintenance()
    if switch is None or not switch.draining:
        return Finding("drain", "ok", "off")
    message = f"on since {switch.since:%Y-%m-%d %H:%M} UTC, nothing new is started: {switch.note or 'no note'}"
    return Finding("drain", "warning", message, "`regraft drain off` when it is over.")


def _guarded(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except SQLAlchemyError as error:
        return Finding(name, "failed", f"the database refuses ({type(error).__name__})", "Run `regraft migrate`.")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def as_json(findings: list[Finding]) -> list[dict[str, Any]]:
    """For programs."""
    return [dict(vars(finding)) for finding in findings]
