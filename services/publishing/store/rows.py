"""What the statements share."""

from datetime import datetime
from typing import Any

Row = dict[str, Any]


def after_params(after: tuple[datetime, str] | None) -> Row:
    """The parameters of a page that follows this create time and name; None for the first page."""
    time, name = after or (None, None)
    return {"time": time, "name": name}
