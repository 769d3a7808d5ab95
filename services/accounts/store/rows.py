"""What lists and rows have in common."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from psycopg import Cursor

from services.chassis.errors import not_found

Row = Mapping[str, Any]

After = tuple[datetime, str]
"""Creation time and name of the last item of a page: lists are sorted by them."""

BEGINNING: After = (datetime.min.replace(tzinfo=UTC), "")


def only(found: Cursor[Any], name: str) -> Row:
    """The row of the resource `name`. Raises NOT_FOUND."""
    row: Row | None = found.fetchone()
    if row is None:
        raise not_found(name)
    return row
