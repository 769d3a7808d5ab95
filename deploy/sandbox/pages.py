"""What a browser shows: the newest posts, profiles, single posts, and the pages of the OAuth flow."""

import zlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from deploy.sandbox.calls import ApiError, read_id
from deploy.sandbox.entities import Entities
from deploy.sandbox.model import Account, Status, Window
from deploy.sandbox.settings import SandboxSettings
from deploy.sandbox.store import Network

TEMPLATES = Path(__file__).with_name("templates")
PAGE_SIZE = 30
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Pages:
    """The HTML of the network; only what is public."""

    def __init__(self, settings: SandboxSettings, network: Network) -> None:
        self._network = network
        self._entities = Entities(network, settings.url)
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters["content"] = self._content

    def routes(self) -> list[Route]:
        return [
            Route("/", self.home),
            Route("/style.css", self.style),
            Route("/avatars/{username}.svg", self.avatar),
            Route("/media/{file_name}", self.media),
            Route("/@{username}", self.profile),
            Route("/@{username}/{id}", self.status),
            Route("/users/{username}", self.profile),
            Route("/users/{username}/statuses/{id}", self.status),
        ]

    def render(self, template: str, *, code: int = 200, **values: Any) -> Response:
        page = self._templates.get_template(template).render(values)
        return HTMLResponse(page, code, {**HEADERS, "Cache-Control": "no-store"})

    def problem(self, message: str, status: int) -> Response:
        return self.render("problem.html", code=status, message=message)

    def _content(self, status: Status) -> Markup:
        return Markup(self._entities.content(status))  # noqa: S704  text.to_html made it safe

    async def home(self, request: Request) -> Response:
        written = [status for status in self._network.timeline if not status.reblog_of]
        posts = self._page(request, written)
        accounts = sorted(
            self._network.accounts.values(), key=lambda account: account.followers, reverse=True
        )
        counts = {"posts": len(written), "people": len(accounts)}
        return self.render(
            "home.html", posts=posts, accounts=accounts[:8], counts=counts, page_size=PAGE_SIZE
        )

    async def profile(self, request: Request) -> Response:
        account = self._account(request)
        posts = self._page(request, account.statuses)
        return self.render("profile.html", account=account, posts=posts, page_size=PAGE_SIZE)

    async def status(self, request: Request) -> Response:
        account = self._account(request)
        status = self._network.statuses.get(_id(request.path_params["id"]))
        if status is None or status.account is not account or not self._network.visible(status, None):
            raise HTTPException(404)
        ancestors, answers = (
            [post for post in posts if self._network.visible(post, None)]
            for posts in self._network.context(status)
        )
        return self.render("status.html", status=status, ancestors=ancestors, answers=answers)

    async def style(self, _: Request) -> Response:
        return FileResponse(TEMPLATES / "style.css")

    async def media(self, request: Request) -> Response:
        file = self._network.media_directory / request.path_params["file_name"]
        if not file.is_file():
            raise HTTPException(404)
        return FileResponse(file, headers=HEADERS)

    async def avatar(self, request: Request) -> Response:
        account = self._account(request)
        hue = zlib.crc32(account.username.encode()) % 360
        letters = escape(initials(account.display_name))
        drawing = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96">'
            f'<rect width="96" height="96" fill="hsl({hue} 46% 46%)"/>'
            '<text x="48" y="49" fill="#fff" font-family="sans-serif" font-size="38" font-weight="600" '
            f'text-anchor="middle" dominant-baseline="central">{letters}</text></svg>'
        )
        return Response(drawing, media_type="image/svg+xml", headers=HEADERS)

    def _page(self, request: Request, posts: list[Status]) -> list[Status]:
        """The newest public posts and reposts below `max_id`."""
        below = request.query_params.get("max_id")
        window = Window(PAGE_SIZE, max_id=_id(below) if below else None)
        return window.select(posts, lambda post: post.id, lambda post: self._network.visible(post, None))

    def _account(self, request: Request) -> Account:
        account = self._network.accounts_by_name.get(request.path_params["username"].lower())
        if account is None:
            raise HTTPException(404)
        return account


def initials(name: str) -> str:
    """One Chinese character, or the first letters of the first two words."""
    words = name.split()
    if not words:
        return "?"
    if not words[0][0].isascii() and not words[0][0].islower() and not words[0][0].isupper():
        return words[0][0]
    return "".join(word[0] for word in words[:2]).upper()


def _id(value: str) -> int:
    try:
        return read_id(value)
    except ApiError as error:
        raise HTTPException(404) from error
