import shutil
from pathlib import Path

import pytest

from deploy.local import buf
from deploy.local.stubs import PROTOS


@pytest.fixture
def protos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our protos that stands in for them, with today's as the last release."""
    copy = tmp_path / "protos"
    shutil.copytree(PROTOS, copy)
    release = buf.complete(PROTOS, tmp_path / "release")
    monkeypatch.setattr(buf, "PROTOS", copy)
    monkeypatch.setattr(buf, "WORK", tmp_path / "work")
    monkeypatch.setattr(buf, "last_release", lambda: "v0")
    monkeypatch.setattr(buf, "protos_of", lambda _: release)
    return copy


def test_check__our_protos_are_well(protos: Path) -> None:
    """Unchanged protos pass lint, format and the comparison with the last release."""
    assert buf.check()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("string enterprise = ", "string Enterprise = "),
        ("  string ", "      string "),
        ("string enterprise = 1;", "string enterprise = 99;"),
    ],
    ids=["lint", "format", "breaking"],
)  # fmt: skip
def test_check__a_fault_fails(protos: Path, before: str, after: str) -> None:
    """A field name against the style, needless spaces, a changed field number: each fails."""
    ours = sorted((protos / "numerator").rglob("*.proto"))
    path = next(each for each in ours if before in each.read_text())
    path.write_text(path.read_text().replace(before, after, 1))

    assert not buf.check()


def test_fix__formats_in_place(protos: Path) -> None:
    """What was only badly formatted is well again after fixing."""
    path = protos / "numerator" / "events" / "v1" / "accounts.proto"
    good = path.read_text()
    path.write_text(good.replace("  string ", "      string ", 1))

    assert buf.fix()

    assert path.read_text() == good
