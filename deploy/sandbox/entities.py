"""The JSON that the API answers with."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deploy.sandbox import text
from deploy.sandbox.model import Account, Application, Media, Notification, Status, Token
from deploy.sandbox.store import Network

Json = dict[str, Any]


def iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Entities:
    """Renders the network's things, with URLs that begin with `url`."""

    network: Network
    url: str

    def profile_url(self, username: str, domain: str | None = None) -> str | None:
        account = self.network.mentioned_account(username, domain)
        return f"{self.url}/@{account.username}" if account else None

    def content(self, status: Status) -> str:
        return text.to_html(status.text, self.profile_url)

    def actor(self, account: Account) -> str:
        return f"{self.url}/users/{account.username}"

    def avatar(self, account: Account) -> str:
        return f"{self.url}/avatars/{account.username}.svg"

    def account(self, account: Account) -> Json:
        newest = account.statuses[-1].created_at if account.statuses else None
        avatar = self.avatar(account)
        return {
            "id": str(account.id),
            "username": account.username,
            "acct": account.username,
            "display_name": account.display_name,
            "locked": False,
            "bot": False,
            "discoverable": True,
            "group": False,
            "created_at": iso(account.created_at),
            "note": "",
            "url": f"{self.url}/@{account.username}",
            "uri": self.actor(account),
            "avatar": avatar,
            "avatar_static": avatar,
            "header": avatar,
            "header_static": avatar,
            "followers_count": account.followers,
            "following_count": 0,
            "statuses_count": len(account.statuses),
            "last_status_at": newest.date().isoformat() if newest else None,
            "emojis": [],
            "fields": [],
        }

    def credentials(self, account: Account) -> Json:
        source = {"privacy": "public", "sensitive": False, "language": None, "note": "", "fields": []}
        role = {"id": "-99", "name": "", "permissions": "65536", "color": "", "highlighted": False}
        return self.account(account) | {"source": source | {"follow_requests_count": 0}, "role": role}

    def status(self, status: Status, viewer: Account | None) -> Json:
        original = status.reblog_of
        path = f"{self.url}/@{status.account.username}/{status.id}"
        return {
            "id": str(status.id),
            "created_at": iso(status.created_at),
            "edited_at": iso(status.edited_at) if status.edited_at else None,
            "in_reply_to_id": str(status.in_reply_to.id) if status.in_reply_to else None,
            "in_reply_to_account_id": str(status.in_reply_to.account.id) if status.in_reply_to else None,
            "sensitive": status.sensitive,
            "spoiler_text": status.spoiler_text,
            "visibility": (original or status).visibility,
            "language": status.language,
            "uri": f"{self.actor(status.account)}/statuses/{status.id}",
            "url": path,
            "replies_count": len(status.replies),
            "reblogs_count": len(status.reblogs),
            "favourites_count": len(status.favourites),
            "favourited": viewer is not None and viewer.id in (original or status).favourites,
            "reblogged": viewer is not None and viewer.id in (original or status).reblogs,
            "muted": False,
            "bookmarked": False,
            "content": self.content(original or status),
            "reblog": self.status(original, viewer) if original else None,
            "application": {"name": status.application, "website": None} if status.application else None,
            "account": self.account(status.account),
            "media_attachments": [self.media(media) for media in status.media],
            "mentions": [self._mention(account) for account in status.mentioned],
            "tags": [{"name": tag, "url": f"{self.url}/tags/{tag}"} for tag in text.tags(status.text)],
            "emojis": [],
            "card": None,
            "poll": None,
        }

    def _mention(self, account: Account) -> Json:
        page = f"{self.url}/@{account.username}"
        return {"id": str(account.id), "username": account.username, "acct": account.username, "url": page}

    def media(self, media: Media) -> Json:
        """The `url` is null while it is being processed."""
        url = f"{self.url}/media/{media.file_name}" if media.ready else None
        return {
            "id": str(media.id),
            "type": "video" if media.content_type.startswith("video/") else "image",
            "url": url,
            "preview_url": url,
            "remote_url": None,
            "meta": {},
            "description": media.description,
            "blurhash": None,
        }

    def notification(self, notification: Notification, viewer: Account) -> Json:
        return {
            "id": str(notification.id),
            "type": notification.kind,
            "created_at": iso(notification.created_at),
            "group_key": f"ungrouped-{notification.id}",
            "account": self.account(notification.account),
            "status": self.status(notification.status, viewer),
        }

    def application(self, application: Application) -> Json:
        return {
            "id": str(application.id),
            "name": application.name,
            "website": application.website,
            "scopes": application.scopes,
            "redirect_uri": "\n".join(application.redirect_uris),
            "redirect_uris": application.redirect_uris,
        }

    def token(self, token: Token) -> Json:
        told: Json = {
            "access_token": token.value,
            "token_type": "Bearer",
            "scope": " ".join(token.scopes),
            "created_at": int(token.created_at.timestamp()),
        }
        if token.expires_at:
            life = token.expires_at - token.created_at
            told |= {"expires_in": round(life.total_seconds()), "refresh_token": token.refresh}
        return told
