"""Pages: what they show when, to anybody, and that nothing in them can do anything."""

from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerator.placement.v1 import placement_pb2 as pb

from services.chassis.database import Tenant
from services.chassis.testing.outcomes import field_reasons_of, reason_of
from services.chassis.testing.rpc import anonymous
from services.placement import pages, usecases
from services.placement.model import Campaign, CampaignState, Creative, Enterprise, Module, Placement
from services.placement.tests.test_model import NOON
from services.placement.tests.world import TIANSHAN, World, stamp
from services.placement.usecases import Page


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, and the texts between them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page(text: str, link: str = "https://tianshan.example/") -> Page:
    """A page in which every text is this one."""
    module = Module("m", text, text, link, NOON, NOON + timedelta(days=1), 0, NOON)
    campaign = Campaign(
        "c", text, NOON, NOON + timedelta(days=1), 5, NOON, CampaignState.LIVE, registration_count=2
    )
    creative = Creative(text, text, text, text, NOON)
    card = Placement("p", "c", "HOME_FEED", "EVENT_CARD", "a", 0, 1, creative, NOON)
    return Page(Enterprise(TIANSHAN, text, verified=True), [module], [(campaign, card)])


def elements(html: str) -> list[str]:
    return [tag for tag, _ in Reader(html).elements]


PLAIN = elements(pages.render(page("x")))


@given(
    st.text(min_size=1)
    | st.sampled_from(['<script>alert("x")</script>', "{{ 7 * 7 }}", "{% raw %}", '" onload="x'])
)
def test_render__makes_no_element_of_a_text(text: str) -> None:
    """Whatever people write, the page has the same elements; and no element has a handler."""
    html = pages.render(page(text))
    assert elements(html) == PLAIN
    assert not [
        name for _, attributes in Reader(html).elements for name in attributes if name.startswith("on")
    ]
    assert "script" not in PLAIN


def test_render__writes_a_link_into_one_attribute() -> None:
    """Quotes in it end nothing."""
    link = "https://tianshan.example/?a=\"><script>alert(1)</script>&b='"
    html = pages.render(page("x", link))
    assert [attributes for tag, attributes in Reader(html).elements if tag == "a"] == [
        {"class": "more", "href": link, "rel": "noopener noreferrer nofollow"}
    ]
    assert elements(html) == PLAIN


def test_render__needs_nothing_from_elsewhere() -> None:
    """No script, no image, no font, no style sheet; and the browser is told so."""
    html = pages.render(page("x"))
    assert not {"script", "img", "link", "iframe", "form", "object"} & set(elements(html))
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_render__with_little() -> None:
    """What is not said leaves no trace; a page with nothing says so."""
    module = Module("m", "Title", "", "", NOON, NOON + timedelta(days=1), 0, NOON)
    campaign = Campaign("c", "x", NOON, NOON + timedelta(days=1), 0, NOON, CampaignState.LIVE)
    card = Placement("p", "c", "HOME_FEED", "EVENT_CARD", "a", 0, 1, Creative("Card"), NOON)
    enterprise = Enterprise(TIANSHAN, "Tianshan", verified=False)
    text = Reader(pages.render(Page(enterprise, [module], [(campaign, card)]))).text
    assert "Title Here until 16 January 2026 Event Card Tianshan is" in text
    for missing in ("Verified", "places", "None"):
        assert missing not in text.rpartition("}")[2]
    assert "Nothing here just now" in Reader(pages.render(Page(enterprise, [], []))).text


# By gRPC


def create(world: World, **fields: Any) -> pb.Module:
    wanted = {
        "title": "SUV weekend",
        "start_time": stamp(world.clock.now()),
        "end_time": stamp(world.clock.now() + timedelta(days=7)),
    } | fields
    return world.owner.CreateModule(pb.CreateModuleRequest(parent=TIANSHAN, module=pb.Module(**wanted)))


def shown(world: World) -> str:
    """The page's text, as anybody sees it."""
    answer = world.as_(anonymous()).ShowPage(pb.ShowPageRequest(enterprise="tianshan"))
    assert answer.content_type == "text/html; charset=utf-8"
    return Reader(answer.data.decode()).text


def test_module__holds_its_place_for_its_flight(world: World) -> None:
    """Not before and not after, however much comes meanwhile; smaller positions above, older ones first."""
    world.name()
    create(world, title="First", position=1)
    create(world, title="Later", start_time=stamp(world.clock.now() + timedelta(days=1)))
    for number in range(5):
        world.clock.advance(timedelta(seconds=1))
        create(world, title=f"Below {number}", position=2)
    text = shown(world)
    assert text.index("First") < text.index("Below 0") < text.index("Below 4")
    assert "Later" not in text
    world.clock.advance(timedelta(days=1))
    text = shown(world)
    assert text.index("Later") < text.index("First")
    world.clock.advance(timedelta(days=5, hours=23, minutes=59, seconds=55))
    assert "First" not in shown(world)


def test_module__is_read_listed_and_deleted(world: World) -> None:
    """Page after page in the order of the page; what was deleted is gone."""
    made = [
        create(world, title=f"Module {n}", position=n % 2, body="Text", link_url="https://x.example")
        for n in range(5)
    ]
    assert world.owner.GetModule(pb.GetModuleRequest(name=made[0].name)) == made[0]
    seen, token = [], ""
    while True:
        answer = world.owner.ListModules(
            pb.ListModulesRequest(parent=TIANSHAN, page_size=2, page_token=token)
        )
        seen += answer.modules
        token = answer.next_page_token
        if not token:
            break
    assert sorted(seen, key=lambda each: each.name) == sorted(made, key=lambda each: each.name)
    assert [each.position for each in seen] == [0, 0, 0, 1, 1]
    assert world.owner.DeleteModule(pb.DeleteModuleRequest(name=made[0].name)) == made[0]
    for call, request in (
        (world.owner.GetModule, pb.GetModuleRequest(name=made[0].name)),
        (world.owner.DeleteModule, pb.DeleteModuleRequest(name=made[0].name)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request)
        assert reason_of(refused.value) == "NOT_FOUND"


def test_module__that_does_not_hold(world: World) -> None:
    """The field and the reason; nothing is kept."""
    for fields, wrong in (
        ({"link_url": "javascript:alert(1)"}, {"module.link_url": "LINK_NOT_WEB"}),
        ({"end_time": stamp(world.clock.now())}, {"module.end_time": "FLIGHT_EMPTY"}),
        ({"title": ""}, {"module.title": "REQUIRED"}),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            create(world, **fields)
        assert field_reasons_of(refused.value) == wrong
    assert not world.rows("modules")


def test_page__shows_one_card_for_each_live_event(world: World) -> None:
    """However many placements a campaign has; with the places that are left; until it ends."""
    creative = pb.Creative(title="Desert day", venue="Kumtag", event_time=stamp(NOON))
    placement = world.live({"ann": (1, ["x"])}, creative=creative, capacity=20)
    campaign = placement.name.partition("/placements/")[0]
    other = world.campaign().name
    world.place(other, touchpoint=pb.SEARCH)
    world.place(other, touchpoint=pb.HOME_FEED)
    world.place(other, format=pb.NATIVE_POST)
    draft = world.campaign().name
    world.place(draft, creative=pb.Creative(title="Not yet"))
    world.start(other)
    world.register(world.token("d1", "ann", placement.name))
    text = shown(world)
    assert "Desert day Thursday, 15 January 2026, 12:00 UTC Kumtag 19 of 20 places left" in text
    assert text.count("Event ") == 2
    assert "Not yet" not in text
    world.owner.EndCampaign(pb.EndCampaignRequest(name=campaign))
    assert "Desert day" not in shown(world)


def test_page__says_verified_only_while_it_is_true(world: World) -> None:
    """In whatever order the news comes, the newest counts."""
    minute = timedelta(minutes=1)

    def hear(*, verified: bool, since: Any) -> None:
        with world.database.transaction(Tenant(TIANSHAN)) as tx:
            usecases.verify_enterprise(tx, TIANSHAN, verified=verified, since=since)

    hear(verified=True, since=NOON)
    world.name()
    assert "Verified enterprise" in shown(world)
    hear(verified=False, since=NOON + 2 * minute)
    assert "Verified enterprise" not in shown(world)
    hear(verified=True, since=NOON + minute)
    assert "Verified enterprise" not in shown(world)
    hear(verified=True, since=NOON + 3 * minute)
    assert "Verified enterprise" in shown(world)


@pytest.mark.parametrize("enterprise", ["missing", "x" * 100, "-x", "TIANSHAN"])
def test_page__of_nobody(world: World, enterprise: str) -> None:
    """Is not found."""
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(anonymous()).ShowPage(pb.ShowPageRequest(enterprise=enterprise))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
