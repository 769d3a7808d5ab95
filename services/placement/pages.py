"""An enterprise's public page as HTML."""

from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from services.placement.usecases import Page

_environment = Environment(
    loader=PackageLoader("services.placement", "templates"),
    autoescape=select_autoescape(default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _day(moment: datetime | str) -> str:
    """A day as people write it, as `14 December 2026`."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return f"{moment.day} {moment:%B %Y}"


_environment.filters["day"] = _day


def render(page: Page) -> str:
    """The page. What people wrote is escaped; there is no script and nothing from elsewhere."""
    return _environment.get_template("page.html").render(page=page)
