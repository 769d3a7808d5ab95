"""Path templates: what they match, what they give, and that a URL made from values leads back to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.paths import PathTemplate

ACCOUNT = PathTemplate.parse("/v1/{name=enterprises/*/accounts/*}:verify")


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/v1/{name=enterprises/*}", "/v1/enterprises/x", {"name": "enterprises/x"}),
        ("/v1/{name=enterprises/*}", "/v1/enterprises/x/y", None),
        ("/v1/{name=enterprises/*}", "/v1/enterprises/", None),
        ("/v1/{name=enterprises/*}", "/v1/enterprises/x:verify", None),
        ("/v1/{name=enterprises/*}", "/v1/enterprises/x%3Ay", {"name": "enterprises/x:y"}),
        ("/v1/{name=enterprises/*}:verify", "/v1/enterprises/x:verify", {"name": "enterprises/x"}),
        ("/v1/{name=enterprises/*}:verify", "/v1/enterprises/x", None),
        ("/v1/{name=enterprises/*}", "/v1/enterprises/a%2Fb", {"name": "enterprises/a%2Fb"}),
        ("/pages/{enterprise}", "/pages/a%2Fb%20c", {"enterprise": "a/b c"}),
        ("/v1/{path=files/**}", "/v1/files/a/b/c", {"path": "files/a/b/c"}),
        ("/v1/{a=x/*}/y/{b.c}", "/v1/x/1/y/2", {"a": "x/1", "b.c": "2"}),
        ("/v1/edition", "/v1/edition", {}),
        ("/v1/edition", "/v1/edition/", None),
        ("/v1/profiles:ingest", "/v1/profiles:ingest", {}),
        ("/v1/a.b", "/v1/axb", None),
    ],
)
def test_match__cases(template, path, expected):
    """A template gives its variables' decoded values, or None."""
    assert PathTemplate.parse(template).match(path) == expected


@pytest.mark.parametrize("text", ["v1/x", "/v1/{", "/v1/{name=}", "/v1/{Name}", "/v1/}"])
def test_parse__refuses(text):
    """What is no template is refused when it is compiled, not when it is used."""
    with pytest.raises(ValueError, match="path template"):
        PathTemplate.parse(text)


def test_match__not_utf8():
    """A value that is not UTF-8 is an error, not another value."""
    with pytest.raises(UnicodeDecodeError):
        PathTemplate.parse("/pages/{x}").match("/pages/%ff")


_ID = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)


@given(_ID, _ID)
def test_expand__leads_back(enterprise, account):
    """Whatever the ids hold, the path made from a name matches and gives the name again."""
    name = f"enterprises/{enterprise}/accounts/{account}"

    assert ACCOUNT.match(ACCOUNT.expand({"name": name})) == {"name": name}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_expand__single_segment_leads_back(value):
    """A variable of one segment may hold anything, slashes too."""
    template = PathTemplate.parse("/users/{user}/look:now")

    assert template.match(template.expand({"user": value})) == {"user": value}


def test_expand__refuses_what_does_not_fit():
    """A name of another collection makes no path."""
    with pytest.raises(ValueError, match="do not fit"):
        ACCOUNT.expand({"name": "rollouts/x"})
