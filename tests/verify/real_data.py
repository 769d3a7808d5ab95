"""
Real repost cascades through the public API: 574 posts and 217,351 reposts of a microblog.

The data stays outside of the project: it carries no licence. Its folder is `../shared/data/ced` beside the checkout, or CED_DATA.
"""

import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from pydantic_settings import BaseSettings

from deploy.demo.client import Gateway
from tests.verify.table import Row
from tests.world import World

_BEIJING = timezone(timedelta(hours=8))
_CHUNK_LINES = 2_000


class RealDataSettings(BaseSettings):
    """Where the data is."""

    ced_data: Path = Path(__file__).resolve().parents[3] / "shared" / "data" / "ced"


def real_data(world: World) -> Iterator[Row]:
    """Send all of it, and compare the totals by post with a plain count. Needs an admitted company."""
    folder = RealDataSettings().ced_data
    what = "real data: 574 posts, 217,351 reposts"
    if not (folder / "reposts.jsonl.gz").exists():
        yield Row(
            what, "goes in, totals equal a plain count", f"no data in {folder}; set CED_DATA", holds=False
        )
        return
    posts, reposts = list(_read(folder / "posts.jsonl.gz")), list(_read(folder / "reposts.jsonl.gz"))
    owner, enterprise = world.story.owner, world.story.enterprise
    began = time.monotonic()
    answers = [
        owner.upload(f"/v1/{enterprise}/engagements:ingest", _chunks(lines))
        for lines in ((_post_line(p) for p in posts), (_repost_line(r) for r in reposts))
    ]
    seconds = time.monotonic() - began
    told = answers[1]
    accepted, rejected, duplicates = _plain_count(posts, reposts)
    counted = _totals(owner, enterprise, {str(post["post"]) for post in posts})
    total = len(posts) + len(reposts)
    yield Row(
        what,
        "totals by post equal a plain Python count",
        f"{len(counted)} posts, {sum(counted.values()):,} reposts; {_differences(counted, accepted)} posts differ",
        holds=counted == accepted,
    )
    yield Row(
        "what was rejected, and why",
        "the same as a plain count says",
        f"{dict(told.get('rejectedByReason', {}))}, {told.get('duplicateCount', 0)} repeated ids, "
        f"{told.get('orphanCount', 0)} with an unknown parent taken in",
        holds={k: int(v) for k, v in told.get("rejectedByReason", {}).items()} == rejected
        and int(told.get("duplicateCount", 0)) == duplicates,
    )
    yield Row(
        "speed of taking in",
        "measured",
        f"{total / seconds:,.0f} rows/s ({total:,} in {seconds:.1f} s)",
        holds=True,
    )


def _plain_count(
    posts: list[dict[str, object]], reposts: list[dict[str, object]]
) -> tuple[Counter[str], dict[str, int], int]:
    """Reposts by post, rejections by reason, and repeated ids, by the rules of docs/engagements.md."""
    times = {str(post["post"]): datetime.fromtimestamp(float(str(post["time"])), UTC) for post in posts}
    accepted: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    seen: set[str] = set()
    duplicates = 0
    for repost in reposts:
        post = str(repost["post"])
        when = _when(repost)
        if when is None:
            rejected["BAD_VALUE"] += 1
        elif post not in times:
            rejected["UNKNOWN_POST"] += 1
        elif when < times[post]:
            rejected["TIME_BEFORE_POST"] += 1
        elif repost["id"] in seen:
            duplicates += 1
        else:
            seen.add(str(repost["id"]))
            accepted[post] += 1
    return accepted, dict(rejected), duplicates


def _totals(owner: Gateway, enterprise: str, posts: set[str]) -> Counter[str]:
    """Reposts by post, as analytics answers."""
    totals: Counter[str] = Counter()
    token = ""
    while True:
        body = {"metrics": ["reposts"], "dimensions": ["post"], "pageSize": 1000, "pageToken": token}
        page = owner.post(f"/v1/{enterprise}/analytics:query", body)
        for row in page.get("rows", []):
            if row["dimensions"][0] in posts and row["values"][0]:
                totals[row["dimensions"][0]] = int(row["values"][0])
        token = page.get("nextPageToken", "")
        if not token:
            return totals


def _differences(counted: Counter[str], accepted: Counter[str]) -> int:
    return sum(counted[post] != accepted[post] for post in counted.keys() | accepted.keys())


def _read(path: Path) -> Iterator[dict[str, object]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _post_line(post: dict[str, object]) -> str:
    return json.dumps({"type": "post", "post": post["post"], "user": post["author"], "time": post["time"]})


def _repost_line(repost: dict[str, object]) -> str:
    names = {name: repost[name] for name in ("id", "post", "parent", "user")}
    when = _when(repost)
    return json.dumps({"type": "repost", **names, "time": when.isoformat() if when else repost["time"]})


def _when(repost: dict[str, object]) -> datetime | None:
    """When, in Beijing's time; None where the crawler kept what the page showed, as 03月23日 19:24."""
    try:
        return datetime.fromisoformat(str(repost["time"])).replace(tzinfo=_BEIJING)
    except ValueError:
        return None


def _chunks(lines: Iterator[str]) -> Iterator[bytes]:
    part: list[str] = []
    for line in lines:
        part.append(line)
        if len(part) == _CHUNK_LINES:
            yield ("\n".join(part) + "\n").encode()
            part = []
    if part:
        yield ("\n".join(part) + "\n").encode()
