"""docs/cli.md tells of commands that there are."""

import re
import shlex

import pytest
from typer.main import get_group

from gateway.cli.__main__ import application
from gateway.cli.tests.conftest import ROOT

PAGE = (ROOT / "docs/cli.md").read_text()
LINES = sorted(set(re.findall(r"^\$ numerator (.*)$", PAGE, re.MULTILINE)))


@pytest.mark.parametrize("line", LINES)
def test_page__writes_commands_as_they_are(line, tmp_path, monkeypatch):
    """Each line of the session is understood: verbs, arguments and options."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for file in ("draft.yaml", "plan.yaml"):
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    group, *words = shlex.split(line)
    command = get_group(application()).commands[group]

    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]

    assert command.make_context(line, words).params


def test_page__names_every_verb():
    """No verb is missing in the table, and none is there that is not."""
    table = PAGE.partition("## Verbs")[2].partition("## In scripts")[0]
    named = {word for code in re.findall(r"`([^`]+)`", table) for word in re.split(r"[\s|\\]+", code)}
    groups = get_group(application()).commands

    verbs = {
        verb for name, command in groups.items() for verb in getattr(command, "commands", {name: command})
    }

    assert verbs <= named
    assert {word for word in named if word.islower() and not word.startswith("-")} - set(groups) - verbs <= {
        "14d",
        "3",
    }
