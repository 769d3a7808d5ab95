"""What `python -m services.<service> …` does."""

import sys
from collections.abc import Callable

import pytest
from numerator.events.v1.rollout_pb2 import StageEntered
from psycopg.conninfo import conninfo_to_dict

from services.chassis.database import PLATFORM
from services.chassis.process import main
from services.chassis.testing.databases import TemporaryDatabase

Run = Callable[..., str]


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase]) -> TemporaryDatabase:
    return make_database("rollout")


@pytest.fixture
def run(
    database: TemporaryDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command of a service; gives what it says."""
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**conninfo_to_dict(database.url))
    monkeypatch.setenv("ROLLOUT_DATABASE_URL", url)
    monkeypatch.setenv("AMQP_URL", "amqp://nobody")
    monkeypatch.setenv("PRINCIPAL_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rollout", *arguments])
        with pytest.raises(SystemExit) as ended:
            main("rollout")
        said = capsys.readouterr()
        return f"{ended.value.code} {said.out}{said.err}"

    return run


def test_main__usage(run: Run) -> None:
    """What is no process is told with what there is."""
    for arguments in ([], ["dance"], ["api", "more"], ["migrate", "--since", "now"]):
        assert "{api,worker,migrate,retell}" in run(*arguments)


def test_retell__since(database: TemporaryDatabase, run: Run) -> None:
    """Events that were told since then are unsent again; the command says how many."""
    with database.transaction(PLATFORM) as tx:
        tx.emit(StageEntered(rollout="r"), subject="old")
        tx.emit(StageEntered(rollout="r"), subject="new")
        tx.execute("update outbox set sent_time = '2026-01-31T11:59:59Z' where subject = 'old'")
        tx.execute("update outbox set sent_time = '2026-01-31T12:00:01Z' where subject = 'new'")

    assert (
        run("retell", "--since", "2026-01-31T13:00:00+01:00") == "None rollout: 1 events will be told anew\n"
    )

    with database.transaction(PLATFORM) as tx:
        unsent = tx.execute("select subject from outbox where sent_time is null").fetchall()
    assert [row["subject"] for row in unsent] == ["new"]


@pytest.mark.parametrize(
    "options", [[], ["--since"], ["--since", "yesterday"], ["--since", "2026-01-31T12:00:00"]]
)
def test_retell__no_moment(run: Run, options: list[str]) -> None:
    """Without a moment, with its time zone, nothing is done."""
    assert "--since" in run("retell", *options)
