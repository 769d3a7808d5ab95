"""What servers make of a text, and that we recognise it."""

import html

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploy.sandbox.text import tidy, to_html
from services.publishing.model.texts import fingerprint, from_html

LINK = (
    '<p>See <a href="https://example.com/a/long/path"><span class="invisible">https://</span>'
    '<span class="ellipsis">example.com/a/long</span><span class="invisible">/path</span></a></p>'
)
MENTION = (
    '<p><span class="h-card"><a href="https://x" class="u-url mention">@<span>LiNa</span></a></span> yes</p>'
)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<p>One</p><p>Two<br/>Three<br>Four</p>", "One\n\nTwo\nThree\nFour"),
        ("<p>a &lt; b &amp;&amp; b &gt; c &quot;x&quot;</p>", 'a < b && b > c "x"'),
        (LINK, "See https://example.com/a/long/path"),
        (MENTION, "@lina@example.social yes"),
        ("<p>天山汽车 <a>#<span>越野</span></a></p>", "天山汽车  #越野"),
        ("<p>e\u0301</p>", "\u00e9"),
        ("<p>It’s “new” – <em>really</em></p>", 'It\'s "new" -- *really*'),
    ],
)
def test_fingerprint__as_servers_render__is_recognised(content, text) -> None:
    """Paragraphs, entities, links, mentions and composed letters do not hide a text."""
    assert fingerprint(from_html(content)) == fingerprint(text)


@pytest.mark.parametrize(("one", "other"), [("SUV 1", "SUV 2"), ("☃", "❤"), ("。", "…"), ("a", "á")])
def test_fingerprint__other_texts__differ(one, other) -> None:
    """Texts that a reader would tell apart stay apart."""
    assert fingerprint(one) != fingerprint(other)


@example("?\x85{")
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1))
def test_from_html__escaped_text__comes_back(text: str) -> None:
    """What a server escapes, we read as it was written."""
    assert fingerprint(from_html(f"<p>{html.escape(text)}</p>")) == fingerprint(text)


@given(
    st.lists(
        st.sampled_from(
            ["Hello", "世界", "@li-na", "@li_na@example.social", "#越野", "https://example.com/a?b=c&d=e#f", "<b>",
             "&amp;", "\n", "\n\n", " ", "\t", "a@b.example", "…", "“q”", "☃"]
        ),
        min_size=1,
    ).map("".join)
)  # fmt: skip
def test_fingerprint__rendered_by_the_sandbox__is_recognised(text: str) -> None:
    """Whatever is posted to the sandbox network is found again in its timeline."""
    known = {None, "example.social"}
    rendered = to_html(tidy(text), lambda user, domain: f"https://x/@{user}" if domain in known else None)

    assert fingerprint(from_html(rendered)) == fingerprint(text)
