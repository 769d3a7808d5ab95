"""The Mastodon API: posts, interactions, timelines, media, and what the server says about itself."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from deploy.sandbox import text
from deploy.sandbox.calls import Access, ApiError, Call, Operation, Parameters, read_id
from deploy.sandbox.entities import Entities
from deploy.sandbox.model import Account, Draft, Media, Notification, Status, Window
from deploy.sandbox.settings import Mode, SandboxSettings
from deploy.sandbox.store import Network

MAX_MEDIA = 4
MAX_DESCRIPTION = 1500
MEDIA_TYPES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "video/mp4": ".mp4",
}
MEDIA_SIZE_LIMIT = 16 * 1024 * 1024
VISIBILITIES = ("public", "unlisted", "private", "direct")


@dataclass(frozen=True, slots=True)
class Software:
    """What a server says it is: that tells clients what to expect of its Idempotency-Key."""

    name: str
    version: str
    source_url: str


SOFTWARE = {
    Mode.HONOURS: Software("mastodon", "4.3.4", "https://github.com/mastodon/mastodon"),
    Mode.IGNORES: Software("gotosocial", "0.20.0", "https://codeberg.org/superseriousbusiness/gotosocial"),
    Mode.SERIAL: Software("hollo", "0.6.0", "https://github.com/fedify-dev/hollo"),
}


class Api:
    """Handlers of the API's operations; they raise `ApiError`."""

    def __init__(self, settings: SandboxSettings, network: Network) -> None:
        self._settings = settings
        self._network = network
        self._entities = Entities(network, settings.url)

    def operations(self) -> list[Operation]:
        user = Access.USER
        reads, writes = ("read", "read:statuses"), ("write", "write:statuses")
        accounts = ("read", "read:accounts")
        status = "/api/v1/statuses/{id}"
        return [
            Operation("GET", "/.well-known/nodeinfo", self.nodeinfo_links),
            Operation("GET", "/nodeinfo/2.0", self.nodeinfo),
            Operation("GET", "/api/v1/instance", self.instance_v1),
            Operation("GET", "/api/v2/instance", self.instance),
            Operation(
                "GET",
                "/api/v1/accounts/verify_credentials",
                self.verify_credentials,
                user,
                (*accounts, "profile"),
            ),
            Operation("GET", "/api/v1/accounts/lookup", self.lookup_account, scopes=accounts),
            Operation("GET", "/api/v1/accounts/{id}", self.get_account, scopes=accounts),
            Operation("GET", "/api/v1/accounts/{id}/statuses", self.account_statuses, scopes=reads),
            Operation("POST", "/api/v1/statuses", self.post_status, user, writes),
            Operation("GET", status, self.get_status, scopes=reads),
            Operation("PUT", status, self.edit_status, user, writes),
            Operation("DELETE", status, self.delete_status, user, writes),
            Operation("GET", status + "/context", self.status_context, scopes=reads),
            Operation("GET", status + "/reblogged_by", self.reblogged_by, scopes=accounts),
            Operation("GET", status + "/favourited_by", self.favourited_by, scopes=accounts),
            Operation("POST", status + "/reblog", self.reblog, user, writes),
            Operation("POST", status + "/unreblog", self.unreblog, user, writes),
            Operation("POST", status + "/favourite", self.favourite, user, ("write", "write:favourites")),
            Operation("POST", status + "/unfavourite", self.unfavourite, user, ("write", "write:favourites")),
            Operation("GET", "/api/v1/timelines/home", self.home_timeline, user, reads),
            Operation("GET", "/api/v1/timelines/public", self.public_timeline, scopes=reads),
            Operation("POST", "/api/v2/media", self.upload_media, user, ("write", "write:media")),
            Operation("GET", "/api/v1/media/{id}", self.get_media, user, ("write", "write:media")),
            Operation(
                "GET", "/api/v1/notifications", self.notifications, user, ("read", "read:notifications")
            ),
        ]

    # The server

    async def nodeinfo_links(self, _: Call) -> Response:
        schema = "http://nodeinfo.diaspora.software/ns/schema/2.0"
        return JSONResponse({"links": [{"rel": schema, "href": f"{self._settings.url}/nodeinfo/2.0"}]})

    async def nodeinfo(self, _: Call) -> Response:
        software = SOFTWARE[self._network.mode]
        users = len(self._network.accounts)
        return JSONResponse(
            {
                "version": "2.0",
                "software": {"name": software.name, "version": software.version},
                "protocols": ["activitypub"],
                "services": {"inbound": [], "outbound": []},
                "openRegistrations": False,
                "usage": {"users": {"total": users}, "localPosts": len(self._network.statuses)},
                "metadata": {},
            }
        )

    async def instance_v1(self, _: Call) -> Response:
        statuses = len(self._network.statuses)
        return JSONResponse(
            {
                "uri": self._domain,
                "title": "Sandbox",
                "short_description": "A network to try things on.",
                "description": "",
                "email": "",
                "version": SOFTWARE[self._network.mode].version,
                "urls": {},
                "stats": {
                    "user_count": len(self._network.accounts),
                    "status_count": statuses,
                    "domain_count": 0,
                },
                "languages": ["zh", "en"],
                "registrations": False,
                "approval_required": False,
                "invites_enabled": False,
                "configuration": self._configuration(),
                "rules": [],
            }
        )

    async def instance(self, _: Call) -> Response:
        software = SOFTWARE[self._network.mode]
        return JSONResponse(
            {
                "domain": self._domain,
                "title": "Sandbox",
                "version": software.version,
                "source_url": software.source_url,
                "description": "A network to try things on.",
                "usage": {"users": {"active_month": len(self._network.accounts)}},
                "languages": ["zh", "en"],
                "configuration": self._configuration(),
                "registrations": {"enabled": False, "approval_required": False, "message": None},
                "contact": {"email": "", "account": None},
                "rules": [],
            }
        )

    @property
    def _domain(self) -> str:
        return self._settings.url.partition("://")[2]

    def _configuration(self) -> dict[str, object]:
        return {
            "urls": {},
            "accounts": {"max_featured_tags": 0, "max_pinned_statuses": 0},
            "statuses": {
                "max_characters": self._settings.max_characters,
                "max_media_attachments": MAX_MEDIA,
                "characters_reserved_per_url": text.URL_CHARACTERS,
            },
            "media_attachments": {
                "supported_mime_types": list(MEDIA_TYPES),
                "description_limit": MAX_DESCRIPTION,
                "image_size_limit": MEDIA_SIZE_LIMIT,
                "video_size_limit": MEDIA_SIZE_LIMIT,
            },
            "translation": {"enabled": False},
        }

    # Accounts

    async def verify_credentials(self, call: Call) -> Response:
        return JSONResponse(self._entities.credentials(call.me))

    async def lookup_account(self, call: Call) -> Response:
        name = (await call.parameters()).require("acct").removesuffix(f"@{self._domain}")
        account = self._network.accounts_by_name.get(name.lower())
        if account is None:
            raise ApiError(404, "Record not found")
        return JSONResponse(self._entities.account(account))

    async def get_account(self, call: Call) -> Response:
        return JSONResponse(self._entities.account(self._account(call)))

    async def account_statuses(self, call: Call) -> Response:
        account, parameters = self._account(call), await call.parameters()
        only_media, originals = parameters.flag("only_media"), parameters.flag("exclude_reblogs")
        no_replies, tagged = parameters.flag("exclude_replies"), parameters.text("tagged")

        def wanted(status: Status) -> bool:
            return not (
                (only_media and not status.media)
                or (originals and status.reblog_of)
                or (no_replies and status.in_reply_to)
                or (tagged and tagged.lower() not in text.tags(status.text))
            )

        statuses = [] if parameters.flag("pinned") else account.statuses
        return self._statuses(call, parameters, statuses, wanted)

    def _account(self, call: Call) -> Account:
        account = self._network.accounts.get(call.path_id)
        if account is None:
            raise ApiError(404, "Record not found")
        return account

    # Posts

    async def post_status(self, call: Call) -> Response:
        parameters = await call.parameters()
        key = call.request.headers.get("idempotency-key")
        match self._network.mode:
            case Mode.IGNORES:
                status = self._post(call, parameters)
            case Mode.HONOURS:  # no await from looking for the key to remembering it: that makes it atomic
                before = self._posted_before(call, key)
                status = before or self._post(call, parameters)
                if before is None:
                    self._remember(call, key, status)
            case Mode.SERIAL:
                gap = self._settings.serial_milliseconds / 1000
                before = self._posted_before(call, key)
                if before is None:
                    await asyncio.sleep(gap)
                status = before or self._post(call, parameters)
                if before is None:
                    await asyncio.sleep(gap)
                    self._remember(call, key, status)
        return self._status(call, status)

    def _posted_before(self, call: Call, key: str | None) -> Status | None:
        """The post made with this key, whatever the text is this time."""
        status_id = self._network.remembered(call.me, key) if key else None
        return self._find(status_id, call.viewer) if status_id else None

    def _remember(self, call: Call, key: str | None, status: Status) -> None:
        if key:
            self._network.remember(call.me, key, status)

    def _post(self, call: Call, parameters: Parameters) -> Status:
        """Check, then commit."""
        for name in ("scheduled_at", "poll"):
            if parameters.values.get(name):
                raise ApiError(422, f"Validation failed: {name} is not supported by this server")
        media_ids = [read_id(media_id) for media_id in parameters.texts("media_ids")]
        parent_id = parameters.identifier("in_reply_to_id")
        if parent_id and not self._visible(self._network.statuses.get(parent_id), call.me):
            raise ApiError(404, "The post you are trying to reply to does not appear to exist.")
        visibility = parameters.text("visibility") or "public"
        if visibility not in VISIBILITIES:
            raise ApiError(422, "Validation failed: Visibility is not included in the list")
        self._check_media(call.me, media_ids)
        draft = Draft(
            text=self._checked_text(parameters, may_be_blank=bool(media_ids)),
            visibility=visibility,
            sensitive=parameters.flag("sensitive"),
            spoiler_text=parameters.text("spoiler_text") or "",
            language=parameters.text("language"),
            in_reply_to_id=parent_id,
            media_ids=media_ids,
        )
        application = call.token.application.name if call.token else None
        key = call.request.headers.get("idempotency-key")
        return self._network.post(call.me, draft, application=application, key=key)

    def _checked_text(self, parameters: Parameters, *, may_be_blank: bool) -> str:
        tidy = text.tidy(parameters.text("status") or "")
        if not tidy and not may_be_blank:
            raise ApiError(422, "Validation failed: Text can't be blank")
        limit = self._settings.max_characters
        spoiler = parameters.text("spoiler_text") or ""
        if text.count_characters(tidy) + len(spoiler) > limit:
            raise ApiError(422, f"Validation failed: Text character limit of {limit} exceeded")
        return tidy

    def _check_media(self, me: Account, media_ids: Sequence[int]) -> None:
        if len(media_ids) > MAX_MEDIA:
            raise ApiError(422, f"Cannot attach more than {MAX_MEDIA} files")
        for media_id in media_ids:
            media = self._network.media.get(media_id)
            if media is None or media.account is not me or media.status_id:
                raise ApiError(422, f"Media {media_id} could not be found")
            if not media.ready:
                raise ApiError(
                    422, "Cannot attach files that have not finished processing. Try again in a moment!"
                )

    async def get_status(self, call: Call) -> Response:
        return self._status(call, self._find(call.path_id, call.viewer))

    async def edit_status(self, call: Call) -> Response:
        parameters = await call.parameters()
        status = self._own(call)
        self._network.edit(
            status,
            new_text=self._checked_text(parameters, may_be_blank=bool(status.media)),
            spoiler_text=parameters.text("spoiler_text") or "",
            sensitive=parameters.flag("sensitive"),
        )
        return self._status(call, status)

    async def delete_status(self, call: Call) -> Response:
        status = self._own(call)
        body = self._entities.status(status, call.viewer) | {"text": status.text}
        self._network.delete(status)
        return JSONResponse(body)

    async def status_context(self, call: Call) -> Response:
        ancestors, descendants = self._network.context(self._find(call.path_id, call.viewer))
        return JSONResponse(
            {
                "ancestors": [self._entities.status(s, call.viewer) for s in self._seen(ancestors, call)],
                "descendants": [self._entities.status(s, call.viewer) for s in self._seen(descendants, call)],
            }
        )

    async def reblogged_by(self, call: Call) -> Response:
        status = self._find(call.path_id, call.viewer)
        accounts = [repost.account for repost in status.reblogs.values()]
        return JSONResponse([self._entities.account(account) for account in accounts])

    async def favourited_by(self, call: Call) -> Response:
        status = self._find(call.path_id, call.viewer)
        return JSONResponse([self._entities.account(account) for account in status.favourites.values()])

    async def reblog(self, call: Call) -> Response:
        status = self._original(call)
        if status.visibility not in ("public", "unlisted") and status.account is not call.me:
            raise ApiError(403, "This action is not allowed")
        return self._status(call, self._network.reblog(call.me, status))

    async def unreblog(self, call: Call) -> Response:
        status = self._original(call)
        if repost := status.reblogs.get(call.me.id):
            self._network.delete(repost)
        return self._status(call, status)

    async def favourite(self, call: Call) -> Response:
        status = self._original(call)
        self._network.favourite(call.me, status)
        return self._status(call, status)

    async def unfavourite(self, call: Call) -> Response:
        status = self._original(call)
        self._network.unfavourite(call.me, status)
        return self._status(call, status)

    def _status(self, call: Call, status: Status) -> Response:
        return JSONResponse(self._entities.status(status, call.viewer))

    def _visible(self, status: Status | None, viewer: Account | None) -> bool:
        return status is not None and self._network.visible(status, viewer)

    def _seen(self, statuses: Sequence[Status], call: Call) -> list[Status]:
        return [status for status in statuses if self._network.visible(status, call.viewer)]

    def _find(self, status_id: int, viewer: Account | None) -> Status:
        """What the viewer must not see answers as if it were not there."""
        status = self._network.statuses.get(status_id)
        if status is None or not self._network.visible(status, viewer):
            raise ApiError(404, "Record not found")
        return status

    def _own(self, call: Call) -> Status:
        status = self._find(call.path_id, call.viewer)
        if status.account is not call.me:
            raise ApiError(404, "Record not found")
        return status

    def _original(self, call: Call) -> Status:
        """What a repost reposts, or the post itself."""
        status = self._find(call.path_id, call.viewer)
        return status.reblog_of or status

    # Timelines and notifications

    async def home_timeline(self, call: Call) -> Response:
        """Of everybody, since everybody follows everybody."""
        parameters = await call.parameters()
        return self._statuses(
            call, parameters, self._network.timeline, lambda status: status.visibility != "direct"
        )

    async def public_timeline(self, call: Call) -> Response:
        """Without answers and reposts."""
        parameters = await call.parameters()
        only_media = parameters.flag("only_media")

        def wanted(status: Status) -> bool:
            shown = status.visibility == "public" and not status.reblog_of and not status.in_reply_to
            return shown and (bool(status.media) or not only_media)

        return self._statuses(call, parameters, self._network.timeline, wanted)

    async def notifications(self, call: Call) -> Response:
        parameters = await call.parameters()
        types, excluded = parameters.texts("types"), parameters.texts("exclude_types")
        by = parameters.identifier("account_id")

        def wanted(known: Notification) -> bool:
            return (
                (not types or known.kind in types)
                and known.kind not in excluded
                and (by is None or known.account.id == by)
            )

        window = _window(parameters, usual=40, most=80)
        found = window.select(call.me.notifications, lambda known: known.id, wanted)
        body = [self._entities.notification(known, call.me) for known in found]
        return JSONResponse(body, headers=self._links(call, window, [item.id for item in found]))

    def _statuses(
        self, call: Call, parameters: Parameters, statuses: Sequence[Status], wanted: Callable[[Status], bool]
    ) -> Response:
        window = _window(parameters, usual=20, most=40)
        found = window.select(
            statuses,
            lambda status: status.id,
            lambda status: wanted(status) and self._network.visible(status, call.viewer),
        )
        body = [self._entities.status(status, call.viewer) for status in found]
        return JSONResponse(body, headers=self._links(call, window, [item.id for item in found]))

    def _links(self, call: Call, window: Window, ids: Sequence[int]) -> dict[str, str]:
        """`next` is older (if there may be more), `prev` is newer."""
        if not ids:
            return {}
        bounds = ("max_id", "min_id", "since_id")
        items = call.request.query_params.multi_items()
        query = [(name, value) for name, value in items if name not in bounds]

        def link(relation: str, bound: str, item_id: int) -> str:
            parameters = urlencode([*query, (bound, str(item_id))])
            return f'<{self._settings.url}{call.request.url.path}?{parameters}>; rel="{relation}"'

        links = [link("next", "max_id", ids[-1])] if len(ids) == window.limit else []
        return {"Link": ", ".join([*links, link("prev", "min_id", ids[0])])}

    # Media

    async def upload_media(self, call: Call) -> Response:
        parameters = await call.parameters()
        upload = parameters.upload("file")
        if upload is None:
            raise ApiError(422, "Validation failed: File can't be blank")
        content = await upload.read()
        await upload.close()
        suffix = MEDIA_TYPES.get(upload.content_type or "") or _known_suffix(upload.filename)
        content_type = next((kind for kind, known in MEDIA_TYPES.items() if known == suffix), None)
        if suffix is None or content_type is None:
            raise ApiError(422, "Validation failed: File content type is invalid, File is invalid")
        if len(content) > MEDIA_SIZE_LIMIT:
            raise ApiError(422, "Validation failed: File file size must be less than 16 MB")
        description = parameters.text("description")
        if len(description or "") > MAX_DESCRIPTION:
            raise ApiError(
                422, f"Validation failed: Description is too long (maximum is {MAX_DESCRIPTION} characters)"
            )
        media = self._network.add_media(call.me, content, suffix, content_type, description)
        return self._media(media, pending=202)

    async def get_media(self, call: Call) -> Response:
        media = self._network.media.get(call.path_id)
        if media is None or media.account is not call.me or media.status_id:
            raise ApiError(404, "Record not found")
        return self._media(media, pending=206)

    def _media(self, media: Media, *, pending: int) -> Response:
        return JSONResponse(self._entities.media(media), 200 if media.ready else pending)


def _window(parameters: Parameters, *, usual: int, most: int) -> Window:
    limit = parameters.text("limit") or ""
    return Window(
        limit=max(1, min(int(limit), most)) if limit.isascii() and limit.isdecimal() else usual,
        max_id=parameters.identifier("max_id"),
        since_id=parameters.identifier("since_id"),
        min_id=parameters.identifier("min_id"),
    )


def _known_suffix(file_name: str | None) -> str | None:
    suffix = PurePath(file_name or "").suffix.lower()
    return suffix if suffix in MEDIA_TYPES.values() else None
