"""The search for secrets finds them."""

import os
from pathlib import Path

import pytest

from services.chassis.testing.canaries import forms, search

SECRET = "canary/with+signs-and_öthers 0123456789"


@pytest.mark.parametrize("form", forms(SECRET))
def test_search__finds_each_form_among_any_bytes(tmp_path: Path, form: str) -> None:
    """Whatever is before and after it, and in whatever folder."""
    place = tmp_path / "some" / "file"
    place.parent.mkdir()
    place.write_bytes(os.urandom(5000) + b"\0" + forms(SECRET)[form] + b"\xff" + os.urandom(5000))

    hits = search([tmp_path], [SECRET, "another secret"])

    assert hits
    assert all(hit.startswith(f"{place}: ") and "canary" in hit for hit in hits)


def test_search__finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    """Not in other secrets, nor where it was told not to look."""
    (tmp_path / "file").write_bytes(os.urandom(5000))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "secret").write_text(SECRET)

    assert search([tmp_path], [SECRET], leave_out=["keys"]) == []
    assert search([tmp_path], [SECRET]) != []


def test_search__does_not_pass_over_what_is_not_there(tmp_path: Path) -> None:
    """A place that is misspelt holds no secrets, but that proves nothing."""
    with pytest.raises(FileNotFoundError):
        search([tmp_path / "nowhere"], [SECRET])
