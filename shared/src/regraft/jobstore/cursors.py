"""Where a page of a list begins: at a row that the list has, or had when it was read last."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from regraft.errors import InvalidInputError


def place_of(
    session: Session,
    columns: tuple[InstrumentedAttribute[Any], ...],
    *which: ColumnElement[bool],
    cursor: str,
    field: str = "after",
) -> Row[Any]:
    """The values by which the list is sorted, of the row that `which` and the cursor name.

    Raises:
        InvalidInputError: there is none. (An empty page would say that the list ends here.)
    """
    row = session.execute(select(*columns).where(*which)).first()
    if row is None:
        remedy = "Use the first_id or last_id of a page of this list, or leave it out."
        raise InvalidInputError("the cursor is not of this list", field=field, value=cursor, remedy=remedy)
    return row
