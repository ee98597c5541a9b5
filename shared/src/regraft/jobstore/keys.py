"""Keys of the API: made, looked up, revoked.

A key is `rgk_<id>_<secret>` with 190 bits of secret, so its plain SHA-256 is safe to keep: nothing can be guessed from
it. The first two parts are the prefix by which its row is found; the comparison takes the same time wherever the first
difference is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Engine, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from regraft.errors import ConflictError, InvalidInputError, NotFoundError
from regraft.jobstore.cursors import place_of
from regraft.jobstore.notices import KEYS
from regraft.models import DEFAULT_PROJECT, ApiKey

ALPHABET = string.ascii_letters + string.digits
SECRET_LENGTH = 32
WELL_FORMED = re.compile(rf"(rgk_[0-9a-f]{{12}})_[a-zA-Z0-9]{{{SECRET_LENGTH}}}")
FORM = f"A key is rgk_, 12 hexadecimal digits, _ and {SECRET_LENGTH} letters or digits."
USED_EVERY = timedelta(minutes=1)


class Scope(StrEnum):
    """What a key may do; each may do what those before it may."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def allows(self, needed: Scope) -> bool:
        """Whether a key of this scope may do what needs `needed`."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Principal:
    """Who calls."""

    key_id: str
    project: str
    scope: Scope


class Keys:
    """The keys of one project; `find` looks among all."""

    def __init__(self, engine: Engine, *, project: str = DEFAULT_PROJECT) -> None:
        self._engine = engine
        self._project = project

    def create(self, *, name: str, scope: Scope, lifetime: timedelta | None = None) -> tuple[ApiKey, str]:
        """A new key: its row, and the key itself, which cannot be had again."""
        prefix = f"rgk_{secrets.token_hex(6)}"
        key = f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))}"
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            row = ApiKey(id=f"key-{secrets.token_hex(8)}", project_id=self._project, prefix=prefix, sha256=digest(key))
            row.name, row.scope = name, scope
            row.expires_at = None if lifetime is None else func.now() + lifetime
            session.add(row)
            session.flush()
            session.refresh(row)
        return row, key

    def adopt(self, key: str, *, name: str, scope: Scope) -> ApiKey:
        """Make a key valid that was made elsewhere; one that is valid already stays as it is.

        Raises:
            InvalidInputError: it has not the form of a key.
            ConflictError: it was revoked, has another scope or project, or its prefix is another key's.
        """
        parts = WELL_FORMED.fullmatch(key)
        if parts is None:
            raise InvalidInputError("has not the form of a key", field=name, remedy=FORM)
        values = {"id": f"key-{secrets.token_hex(8)}", "project_id": self._project, "prefix": parts[1]}
        made = insert(ApiKey).values(**values, sha256=digest(key), name=name, scope=scope)
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            session.execute(made.on_conflict_do_nothing(index_elements=["prefix"]))
            row = session.scalars(select(ApiKey).where(ApiKey.prefix == parts[1])).one()
        same = hmac.compare_digest(row.sha256, digest(key)) and row.project_id == self._project and row.scope == scope
        if not same or row.revoked_at is not None:
            raise ConflictError(
                "the key was revoked" if same else "its prefix is that of another key, scope or project",
                field=name,
                value=parts[1],
                remedy="Put a new key in the secret.",
            )
        return row

    def find(self, key: str) -> Principal | None:
        """Whose key it is, or None: unknown, revoked or expired."""
        parts = WELL_FORMED.fullmatch(key)
        if parts is None:
            return None
        live = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
        found = select(ApiKey).where(ApiKey.prefix == parts[1], ApiKey.revoked_at.is_(None), live)
        with Session(self._engine) as session, session.begin():
            row = session.scalar(found)
            expected = row.sha256 if row is not None else digest("")
            if not hmac.compare_digest(digest(key), expected) or row is None:
                return None
            stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - USED_EVERY)
            session.execute(update(ApiKey).where(ApiKey.id == row.id, stale).values(last_used_at=func.now()))
            return Principal(row.id, row.project_id, Scope(row.scope))

    def page(self, *, after: str | None = None, limit: int) -> tuple[list[ApiKey], bool]:
        """Keys in the order they were made, and whether there are more.

        Raises:
            InvalidInputError: `after` is no key of the project.
        """
        mine = ApiKey.project_id == self._project
        statement = select(ApiKey).where(mine).order_by(ApiKey.seq)
        with Session(self._engine, expire_on_commit=False) as session:
            if after is not None:
                (seq,) = place_of(session, (ApiKey.seq,), ApiKey.id == after, mine, cursor=after)
                statement = statement.where(ApiKey.seq > seq)
            rows = list(session.scalars(statement.limit(limit + 1)))
        return rows[:limit], len(rows) > limit

    def revoke(self, key_id: str) -> ApiKey:
        """From now on the key opens nothing; API processes that remember it are told.

        Raises:
            NotFoundError: there is no such key.
        """
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            mine = (ApiKey.id == key_id, ApiKey.project_id == self._project)
            row = session.scalar(select(ApiKey).where(*mine).with_for_update())
            if row is None:
                raise NotFoundError(
                    "no such key", field="key_id", value=key_id, remedy="`regraft keys list` shows them."
                )
            row.revoked_at = row.revoked_at or _now(session)
            session.execute(select(func.pg_notify(KEYS, key_id)))
        return row


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _now(session: Session) -> datetime:
    return session.execute(select(func.now())).scalar_one()
