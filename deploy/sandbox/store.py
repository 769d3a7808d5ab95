"""
The network's state: who is there, what was posted, who reposted it.

It lives in memory and is rebuilt at start from two journals. `published.jsonl` has one line per committed
post, and is both the record from which posts are rebuilt and the log by which tests judge. `state.jsonl` has
all the rest; each of its lines names the post that came before it (`after`), so that both replay in the order
in which they were written.
"""

import json
import secrets
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.sandbox import text
from deploy.sandbox.journal import Entry, Journal
from deploy.sandbox.model import Account, Application, Draft, Media, Notification, Status, Token
from deploy.sandbox.settings import Mode


class UsernameTakenError(Exception):
    """Somebody has this username."""


class Network:
    """All of the state. Not thread-safe: one event loop owns it. Each change is on file before it shows."""

    def __init__(
        self, directory: Path, *, mode: Mode, media_milliseconds: float, idempotency_seconds: float
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.media_directory = directory / "media"
        self.media_directory.mkdir(exist_ok=True)
        self._usual_mode = mode, media_milliseconds
        self.sequence = 0
        """The number of the newest committed post."""
        self._log = Journal(directory / "published.jsonl")
        self._log_offsets = array("Q")
        """Where in the log each of its posts begins."""
        self._state = Journal(directory / "state.jsonl")
        self._idempotency_seconds = idempotency_seconds
        self._last_id = 0
        self.accounts: dict[int, Account] = {}
        self.accounts_by_name: dict[str, Account] = {}
        self.applications: dict[str, Application] = {}
        self.tokens: dict[str, Token] = {}
        self.token_seconds: float | None = None
        """How long new tokens live; None: for ever."""
        self._forget_posts()
        self._apply = {
            "user": self._apply_user,
            "application": self._apply_application,
            "token": self._apply_token,
            "revoke": self._apply_revoke,
            "media": self._apply_media,
            "edit": self._apply_edit,
            "delete": self._apply_delete,
            "reblog": self._apply_reblog,
            "favourite": self._apply_favourite,
            "unfavourite": self._apply_unfavourite,
            "mode": self._apply_mode,
            "token_life": self._apply_token_life,
            "reset": self._apply_reset,
        }
        self._replay()

    def close(self) -> None:
        self._log.close()
        self._state.close()

    # The log

    def published(self, after: int, limit: int) -> list[Entry]:
        """Committed posts with a greater sequence number than `after`, in order."""
        first = self.sequence - len(self._log_offsets)
        position = max(0, after - first)
        if position >= len(self._log_offsets):
            return []
        lines = self._log.lines(self._log_offsets[position])
        return [json.loads(line) for _, (_, line) in zip(range(limit), lines, strict=False)]

    def post(self, account: Account, draft: Draft, *, application: str | None, key: str | None) -> Status:
        """Commit a post. The caller checked the draft, and decides about the key."""
        entry: Entry = {
            "sequence": self.sequence + 1,
            "time": _now(),
            "account": account.username,
            "account_id": str(account.id),
            "status_id": str(self._new_id()),
            "text": draft.text,
            "idempotency_key": key,
            "in_reply_to_id": str(draft.in_reply_to_id) if draft.in_reply_to_id else None,
            "application": application,
            "visibility": draft.visibility,
            "sensitive": draft.sensitive,
            "spoiler_text": draft.spoiler_text,
            "language": draft.language,
            "media_ids": [str(media) for media in draft.media_ids],
        }
        return self._apply_post(entry, self._log.append(entry))

    def remembered(self, account: Account, key: str) -> int | None:
        """The id of the post that this account made with this key within its life."""
        status_id, when = self._keys.get((account.id, key), (None, 0.0))
        return status_id if time.time() - when < self._idempotency_seconds else None

    def remember(self, account: Account, key: str, status: Status) -> None:
        now = time.time()
        self._keys.pop((account.id, key), None)
        self._keys[account.id, key] = (status.id, status.created_at.timestamp())
        while self._keys:
            oldest = next(iter(self._keys))
            if now - self._keys[oldest][1] < self._idempotency_seconds:
                break
            del self._keys[oldest]

    # Changes: each is written to `state.jsonl`, then applied

    def create_user(self, username: str, password: str, display_name: str, followers: int) -> Account:
        if username.lower() in self.accounts_by_name:
            raise UsernameTakenError
        account_id = self._new_id()
        self._commit(
            "user",
            id=account_id,
            username=username,
            password=password,
            display_name=display_name,
            followers=followers,
        )
        return self.accounts[account_id]

    def create_application(
        self,
        name: str,
        redirect_uris: list[str],
        scopes: list[str],
        website: str | None,
        *,
        client_id: str = "",
        client_secret: str = "",
    ) -> Application:
        client_id = client_id or secrets.token_urlsafe(32)
        self._commit(
            "application",
            id=self._new_id(),
            client_id=client_id,
            client_secret=client_secret or secrets.token_urlsafe(32),
            name=name,
            website=website,
            redirect_uris=redirect_uris,
            scopes=scopes,
        )
        return self.applications[client_id]

    def token(self, value: str) -> Token | None:
        """The token that this is, if it is good."""
        token = self.tokens.get(value)
        return None if token is None or token.expired else token

    def create_token(
        self,
        application: Application,
        account: Account | None,
        scopes: list[str],
        seconds: float | None = None,
    ) -> Token:
        """A token that lives for `seconds`, or as long as control says."""
        value = secrets.token_urlsafe(32)
        life = self.token_seconds if seconds is None else seconds
        expires = None
        if life is not None and account:
            expires = (datetime.now(UTC) + timedelta(seconds=life)).isoformat()
        self._commit(
            "token",
            value=value,
            client_id=application.client_id,
            account_id=account.id if account else None,
            scopes=scopes,
            expires_at=expires,
            refresh=secrets.token_urlsafe(32) if expires else None,
        )
        return self.tokens[value]

    def refresh_token(self, application: Application, refresh: str) -> Token | None:
        """The next token in place of the one that this refreshes, whether that has expired or not; each works once."""
        before = next(
            (
                token
                for token in self.tokens.values()
                if refresh and token.refresh == refresh and token.application is application
            ),
            None,
        )
        if before is None:
            return None
        after = self.create_token(application, before.account, before.scopes)
        self.revoke_token(before)
        return after

    def set_token_life(self, seconds: float | None) -> None:
        """How long tokens live that are made from now on."""
        self._commit("token_life", seconds=seconds)

    def revoke_token(self, token: Token) -> None:
        self._commit("revoke", value=token.value)

    def add_media(
        self, account: Account, content: bytes, suffix: str, content_type: str, description: str | None
    ) -> Media:
        media_id = self._new_id()
        file_name = f"{media_id}{suffix}"
        (self.media_directory / file_name).write_bytes(content)
        self._commit(
            "media",
            id=media_id,
            account_id=account.id,
            file_name=file_name,
            content_type=content_type,
            description=description,
            ready_at=time.time() + self.media_milliseconds / 1000,
        )
        return self.media[media_id]

    def edit(self, status: Status, *, new_text: str, spoiler_text: str, sensitive: bool) -> None:
        self._commit(
            "edit",
            id=self._new_id(),
            status_id=status.id,
            text=new_text,
            spoiler_text=spoiler_text,
            sensitive=sensitive,
        )

    def delete(self, status: Status) -> None:
        """Delete a post with its reposts, or take a repost back."""
        self._commit("delete", status_id=status.id)

    def reblog(self, account: Account, status: Status) -> Status:
        """Repost; again is the same repost."""
        if account.id not in status.reblogs:
            self._commit("reblog", id=self._new_id(), account_id=account.id, status_id=status.id)
        return status.reblogs[account.id]

    def favourite(self, account: Account, status: Status) -> None:
        if account.id not in status.favourites:
            self._commit("favourite", id=self._new_id(), account_id=account.id, status_id=status.id)

    def unfavourite(self, account: Account, status: Status) -> None:
        if account.id in status.favourites:
            self._commit("unfavourite", account_id=account.id, status_id=status.id)

    def set_mode(self, mode: Mode, media_milliseconds: float) -> None:
        self._commit("mode", mode=mode, media_milliseconds=media_milliseconds)

    def reset(self, *, accounts: bool, log: bool) -> None:
        """
        Forget all posts and what came of them, and behave as usual again.

        Accounts (with applications and tokens), and the log, are forgotten only if asked.
        """
        self._commit("reset", accounts=accounts, log=log)
        if log:
            self._log.clear()
        for file in self.media_directory.iterdir():
            file.unlink()

    # Reading

    def mentioned_account(self, username: str, domain: str | None) -> Account | None:
        """Who is meant by @username; nobody with a domain lives here."""
        return None if domain else self.accounts_by_name.get(username.lower())

    def visible(self, status: Status, viewer: Account | None) -> bool:
        """Everybody follows everybody, so that `private` is for all who are signed in."""
        post = status.reblog_of or status
        match post.visibility:
            case "public" | "unlisted":
                return True
            case "private":
                return viewer is not None
            case _:
                return viewer is not None and (viewer is post.account or viewer in post.mentioned)

    def context(self, status: Status) -> tuple[list[Status], list[Status]]:
        """What it answers, outermost first, and all that answers it, each answer followed by its own."""
        ancestors: list[Status] = []
        parent = status.in_reply_to
        while parent:
            ancestors.append(parent)
            parent = parent.in_reply_to
        return ancestors[::-1], list(_descendants(status))

    # Applying, live and at replay

    def _replay(self) -> None:
        posts = self._log.lines()
        newest = next(posts, None)
        for _, line in self._state.lines():
            entry = json.loads(line)
            while newest and (post := json.loads(newest[1]))["sequence"] <= entry["after"]:
                self._apply_post(post, newest[0], replay=True)
                newest = next(posts, None)
            self.sequence = max(self.sequence, entry["after"])
            self._last_id = max(self._last_id, entry.get("id", 0))
            self._apply[entry["kind"]](entry)
        while newest:
            self._apply_post(json.loads(newest[1]), newest[0], replay=True)
            newest = next(posts, None)

    def _commit(self, kind: str, **fields: object) -> None:
        entry: Entry = {"kind": kind, "after": self.sequence, "time": _now(), **fields}
        self._state.append(entry)
        self._apply[kind](entry)

    def _new_id(self) -> int:
        """Like a snowflake: milliseconds, then 16 bits. Always even: `_notify` makes the odd ones."""
        self._last_id = max(self._last_id + 2, time.time_ns() // 1_000_000 << 16)
        return self._last_id

    def _forget_posts(self) -> None:
        self.statuses: dict[int, Status] = {}
        self.timeline: list[Status] = []
        """All posts and reposts, oldest first."""
        self.media: dict[int, Media] = {}
        self._keys: dict[tuple[int, str], tuple[int, float]] = {}
        """(account, key) to (post, seconds since the epoch), oldest first."""
        self.mode, self.media_milliseconds = self._usual_mode
        for account in self.accounts.values():
            account.statuses.clear()
            account.notifications.clear()

    def _apply_post(self, entry: Entry, offset: int, *, replay: bool = False) -> Status:
        self.sequence = entry["sequence"]
        self._log_offsets.append(offset)
        account = self.accounts[int(entry["account_id"])]
        parent = self.statuses.get(int(entry["in_reply_to_id"])) if entry["in_reply_to_id"] else None
        status = Status(
            id=int(entry["status_id"]),
            account=account,
            created_at=datetime.fromisoformat(entry["time"]),
            text=entry["text"],
            visibility=entry["visibility"],
            sensitive=entry["sensitive"],
            spoiler_text=entry["spoiler_text"],
            language=entry["language"],
            application=entry["application"],
            in_reply_to=parent,
            media=[self.media[int(media_id)] for media_id in entry["media_ids"]],
        )
        for media in status.media:
            media.status_id = status.id
        if parent:
            parent.replies.append(status)
        self._add(status)
        self._address(status, status.id)
        if replay and (key := entry["idempotency_key"]):
            self.remember(account, key, status)
        return status

    def _add(self, status: Status) -> None:
        self._last_id = max(self._last_id, status.id)
        self.statuses[status.id] = status
        self.timeline.append(status)
        status.account.statuses.append(status)

    def _address(self, status: Status, event_id: int, told: Iterable[Account] = ()) -> None:
        """Find who is mentioned, and tell all who are addressed but those who were told before."""
        found = [self.mentioned_account(*mention) for mention in text.mentions(status.text)]
        status.mentioned = [account for account in found if account]
        for account in status.addressed:
            if account not in told:
                self._notify(account, "mention", status.account, status, event_id)

    @staticmethod
    def _notify(account: Account, kind: str, by: Account, status: Status, event_id: int) -> None:
        if account is not by:
            account.notifications.append(Notification(event_id + 1, kind, by, status))

    @staticmethod
    def _withdraw(account: Account, gone: Callable[[Notification], bool]) -> None:
        account.notifications = [known for known in account.notifications if not gone(known)]

    def _apply_user(self, entry: Entry) -> None:
        account = Account(
            id=entry["id"],
            username=entry["username"],
            password=entry["password"],
            display_name=entry["display_name"],
            followers=entry["followers"],
            created_at=datetime.fromisoformat(entry["time"]),
        )
        self.accounts[account.id] = self.accounts_by_name[account.username.lower()] = account

    def _apply_application(self, entry: Entry) -> None:
        self.applications[entry["client_id"]] = Application(
            id=entry["id"],
            client_id=entry["client_id"],
            client_secret=entry["client_secret"],
            name=entry["name"],
            website=entry["website"],
            redirect_uris=entry["redirect_uris"],
            scopes=entry["scopes"],
        )

    def _apply_token(self, entry: Entry) -> None:
        self.tokens[entry["value"]] = Token(
            value=entry["value"],
            application=self.applications[entry["client_id"]],
            account=self.accounts[entry["account_id"]] if entry["account_id"] else None,
            scopes=entry["scopes"],
            created_at=datetime.fromisoformat(entry["time"]),
            # Journals of former versions have neither.
            expires_at=datetime.fromisoformat(entry["expires_at"]) if entry.get("expires_at") else None,
            refresh=entry.get("refresh"),
        )

    def _apply_token_life(self, entry: Entry) -> None:
        self.token_seconds = entry["seconds"]

    def _apply_revoke(self, entry: Entry) -> None:
        self.tokens.pop(entry["value"], None)

    def _apply_media(self, entry: Entry) -> None:
        self.media[entry["id"]] = Media(
            id=entry["id"],
            account=self.accounts[entry["account_id"]],
            file_name=entry["file_name"],
            content_type=entry["content_type"],
            description=entry["description"],
            ready_at=entry["ready_at"],
        )

    def _apply_edit(self, entry: Entry) -> None:
        status = self.statuses[entry["status_id"]]
        told = status.addressed
        status.text = entry["text"]
        status.spoiler_text = entry["spoiler_text"]
        status.sensitive = entry["sensitive"]
        status.edited_at = datetime.fromisoformat(entry["time"])
        self._address(status, entry["id"], told)

    def _apply_delete(self, entry: Entry) -> None:
        status = self.statuses[entry["status_id"]]
        for gone in [*status.reblogs.values(), status]:
            del self.statuses[gone.id]
            for known in (self.timeline, gone.account.statuses):
                del known[bisect_left(known, gone.id, key=lambda status: status.id)]
        for account in [status.account, *status.addressed]:
            self._withdraw(account, lambda known: known.status is status)
        for reply in status.replies:
            reply.in_reply_to = None
        if status.in_reply_to:
            status.in_reply_to.replies.remove(status)
        if original := status.reblog_of:
            del original.reblogs[status.account.id]
            self._withdraw(original.account, _is("reblog", status.account, original))

    def _apply_reblog(self, entry: Entry) -> None:
        account, original = self.accounts[entry["account_id"]], self.statuses[entry["status_id"]]
        at = datetime.fromisoformat(entry["time"])
        repost = Status(id=entry["id"], account=account, created_at=at, reblog_of=original)
        original.reblogs[account.id] = repost
        self._add(repost)
        self._notify(original.account, "reblog", account, original, entry["id"])

    def _apply_favourite(self, entry: Entry) -> None:
        account, status = self.accounts[entry["account_id"]], self.statuses[entry["status_id"]]
        status.favourites[account.id] = account
        self._notify(status.account, "favourite", account, status, entry["id"])

    def _apply_unfavourite(self, entry: Entry) -> None:
        account, status = self.accounts[entry["account_id"]], self.statuses[entry["status_id"]]
        del status.favourites[account.id]
        self._withdraw(status.account, _is("favourite", account, status))

    def _apply_mode(self, entry: Entry) -> None:
        self.mode, self.media_milliseconds = Mode(entry["mode"]), entry["media_milliseconds"]

    def _apply_reset(self, entry: Entry) -> None:
        self._forget_posts()
        self.token_seconds = None
        if entry["accounts"]:
            for known in (self.accounts, self.accounts_by_name, self.applications, self.tokens):
                known.clear()
        if entry["log"]:
            del self._log_offsets[:]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _is(kind: str, by: Account, status: Status) -> Callable[[Notification], bool]:
    return lambda known: (known.kind, known.account, known.status) == (kind, by, status)


def _descendants(status: Status) -> Iterator[Status]:
    ahead = status.replies[::-1]
    while ahead:
        reply = ahead.pop()
        yield reply
        ahead.extend(reply.replies[::-1])
