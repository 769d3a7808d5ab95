"""An enterprise's public page as HTML."""

import zlib
from datetime import datetime
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from services.placement.usecases import Page

_environment = Environment(
    loader=PackageLoader("services.placement", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _day(moment: datetime) -> str:
    """A day as people write it, as `14 December 2026`."""
    return f"{moment.day} {moment:%B %Y}"


def _time(moment: datetime) -> str:
    """A moment as people write it, as `Monday, 14 December 2026, 02:00 UTC`."""
    return f"{moment:%A}, {_day(moment)}, {moment:%H:%M} UTC"


def _host(url: str) -> str | None:
    """Where a link leads, so that people see it before they follow."""
    return urlsplit(url).hostname


_environment.filters |= {"day": _day, "time": _time, "host": _host}


def render(page: Page) -> str:
    """The page. What people wrote is escaped; there is no script and nothing from elsewhere."""
    # Each enterprise has a colour of its own, always the same.
    hue = zlib.crc32(page.enterprise.name.encode()) % 360
    return _environment.get_template("page.html").render(page=page, hue=hue)
