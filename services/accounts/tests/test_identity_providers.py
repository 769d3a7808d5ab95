"""Logins by identity providers, by gRPC: what is believed of a provider, whose session it opens, and what is not taken."""

import hashlib
import re
import socket
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from numerator.accounts.v1 import groups_pb2, members_pb2, sessions_pb2
from numerator.accounts.v1 import identity_providers_pb2 as pb
from numerator.accounts.v1.groups_pb2_grpc import GroupServiceStub
from numerator.options.v1 import options_pb2

from services.accounts.model.identity_providers import normal_domains
from services.accounts.oidc import Providers
from services.accounts.store.identity_providers import purge_logins
from services.accounts.tests.conftest import LOOPBACK
from services.accounts.tests.identity_provider import (
    ACCESS_TOKEN,
    BROWSER,
    CLIENT_ID,
    CLIENT_SECRET,
    EC_KEY,
    OTHER_RSA_KEY,
    RSA_KEY,
    Provider,
    by_hand,
    jwk,
    public_pem,
    signed,
)
from services.accounts.tests.servers import scripted_servers
from services.accounts.tests.test_canaries import everything
from services.accounts.tests.test_members import create, members
from services.accounts.tests.test_sessions import EMAIL, grant, log_in, refresh, refused, revoked, sessions
from services.accounts.tests.test_shredding import shred
from services.accounts.tests.world import REDIRECT_URI, World, field_reasons_of, reason_of
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.errors import ServiceError
from services.chassis.principal import Principal
from services.chassis.testing.canaries import forms
from services.chassis.testing.rpc import gateway, operator


@pytest.fixture
def make_provider(world: World) -> Iterator[Callable[..., Provider]]:
    """Makes providers, each set by an enterprise of its own."""
    with scripted_servers() as start:

        def make(email: str = EMAIL) -> Provider:
            routes: dict[str, tuple[int, Any]] = {}
            sent: list[dict[str, list[str]]] = []
            provider = Provider(world, world.register(email=email), start(routes, sent), routes, sent)
            provider.tell()
            provider.set()
            return provider

        yield make


@pytest.fixture
def provider(make_provider: Callable[..., Provider]) -> Provider:
    """A provider that Tianshan Motors has set."""
    return make_provider()


def violated(call: Callable[[], object]) -> dict[str, str]:
    """Which fields are wrong, and why."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    return field_reasons_of(error.value)


# Settings


def test_settings__are_shown_without_the_secret(provider: Provider) -> None:
    """With the address to register at the provider; each change is written down, what it was told in secret is not."""
    name = f"{provider.company.name}/identityProvider"
    changed = provider.set(required=True, email_domains=["Tianshan.example", "tianshan.example "])
    shown = provider.as_(operator()).GetIdentityProvider(pb.GetIdentityProviderRequest(name=name))
    assert shown == changed
    assert (shown.name, shown.issuer, shown.client_id) == (name, provider.url, CLIENT_ID)
    assert (shown.required, list(shown.email_domains)) == (True, ["tianshan.example"])
    assert shown.redirect_uri == REDIRECT_URI.replace("/bound", f"/oidc/{provider.company.name[12:]}")
    assert list(provider.set(email_domains=["*"]).email_domains) == []
    assert len(provider.world.audited("identity_provider.created")) == 1
    assert len(provider.world.audited("identity_provider.updated")) == 2
    assert CLIENT_SECRET not in str(shown)


def test_settings__need_all_of_it_the_first_time(world: World) -> None:
    """And the owner is told all that is missing."""
    company = world.register()
    call = Provider(world, company, "", {}).set
    assert violated(lambda: call(required=True)) == dict.fromkeys(
        ("issuer", "client_id", "client_secret"), "REQUIRED"
    )
    assert refused(call, required=True, etag="r1") == "ETAG_MISMATCH"


def test_settings__another_provider_is_not_told_the_secret_of_the_one_before(provider: Provider) -> None:
    """Or an owner could read it by naming a server of their own; and what the one before said counts no more."""
    underway, opened = provider.start(), provider.log_in()
    assert violated(lambda: provider.set(client_id="other")) == {"client_secret": "REQUIRED"}
    assert refresh(provider.world, opened.refresh_token)
    provider.set(client_id="other", client_secret="another")
    assert not provider.world.rows("identity_links")
    assert not provider.world.rows("sessions")
    assert opened.identity.session in revoked(provider.world)
    assert refused(provider.complete, underway) == "LOGIN_STATE_INVALID"


def test_settings__secret_and_domains_change_without_a_new_login(provider: Provider) -> None:
    """A secret rolls over at every provider, some day."""
    opened = provider.log_in()
    provider.set(client_secret="another", email_domains=["tianshan.example"])
    assert refresh(provider.world, opened.refresh_token)
    provider.log_in()
    assert provider.sent[-1]["client_secret"] == ["another"]


def test_settings__deleted(provider: Provider) -> None:
    """Its sessions end, those by password go on; nobody logs in by it any more."""
    by_password, opened = log_in(provider.world), provider.log_in()
    request = pb.DeleteIdentityProviderRequest(name=f"{provider.company.name}/identityProvider", etag="r9")
    delete = provider.as_(provider.company.owner).DeleteIdentityProvider
    assert refused(delete, request) == "ETAG_MISMATCH"
    request.etag = "r1"
    delete(request)
    assert refused(delete, request) == "NOT_FOUND"
    assert refused(provider.start) == "IDENTITY_PROVIDER_MISSING"
    assert refused(refresh, provider.world, opened.refresh_token) == "SESSION_ENDED"
    assert refresh(provider.world, by_password.refresh_token)


def test_settings__are_the_owners(provider: Provider, make_provider: Callable[..., Provider]) -> None:
    """An administrator reads them, nobody else's owner knows of them."""
    other = make_provider("owner@kunlun.example").company.owner
    admin = create(provider.world, provider.company, "admin", "ADMIN")
    name = f"{provider.company.name}/identityProvider"
    get, update, delete, unlink = (
        ("GetIdentityProvider", pb.GetIdentityProviderRequest(name=name)),
        ("UpdateIdentityProvider", pb.UpdateIdentityProviderRequest(name=name, required=True)),
        ("DeleteIdentityProvider", pb.DeleteIdentityProviderRequest(name=name)),
        ("UnlinkMember", pb.UnlinkMemberRequest(name=provider.company.owner.subject)),
    )

    def call(whose: Principal, request: tuple[str, Message]) -> object:
        return getattr(provider.as_(whose), request[0])(request[1])

    assert call(admin, get)
    assert {refused(call, admin, each) for each in (update, delete, unlink)} == {"ROLE_MISSING"}
    assert {refused(call, other, each) for each in (get, update, delete, unlink)} == {"NOT_FOUND"}
    assert refused(
        provider.as_(other).StartLogin, pb.StartLoginRequest(parent="enterprises/x", browser="x")
    ) == ("CALLER_NOT_ALLOWED")


ISSUERS = (
    ("ftp://login.example", "URL_REFUSED"),
    ("https://login.example/?tenant=x", "URL_REFUSED"),
    ("https://user@login.example/", "URL_REFUSED"),
    ("https://10.0.0.1/", "ADDRESS_REFUSED"),
    ("http://127.0.0.2/", "ADDRESS_REFUSED"),
    ("http://[::1]/", "ADDRESS_REFUSED"),
    ("http://169.254.169.254/", "ADDRESS_REFUSED"),
)


def test_settings__issuer_that_we_do_not_ask(provider: Provider) -> None:
    """The guard of all addresses that others name."""
    for issuer, reason in ISSUERS:
        given = {"issuer": issuer, "client_id": "x", "client_secret": "x"}
        with pytest.raises(grpc.RpcError) as error:
            provider.set(**given)
        assert field_reasons_of(error.value) == {"issuer": reason}, issuer


def test_domains__are_checked() -> None:
    """One form for each, and no patterns."""
    assert normal_domains(["B.example", "a.example", "b.example"]) == ("a.example", "b.example")
    for wrong in ("example", "*.example", "a@b.example", "-a.example", "a..example", ""):
        with pytest.raises(ServiceError) as error:
            normal_domains([wrong])
        assert error.value.violations[0].reason == "DOMAIN_MALFORMED"


# Logins


def test_login__opens_an_ordinary_session(provider: Provider) -> None:
    """By code, state, nonce and PKCE; the session is refreshed and listed as any other, and says whence it came."""
    query = provider.start()
    assert query["response_type"] == "code"
    assert set(query["scope"].split()) == {"openid", "email"}
    assert query["code_challenge_method"] == "S256"
    assert (query["client_id"], query["redirect_uri"]) == (
        CLIENT_ID,
        provider.set(required=False).redirect_uri,
    )
    assert min(len(query[each]) for each in ("state", "nonce", "code_challenge")) >= 43
    provider.name(query)
    opened = provider.complete(query, address="203.0.113.7", user_agent="browser")
    assert opened.identity.subject == provider.company.owner.subject
    assert list(opened.identity.roles) == [options_pb2.OWNER]
    assert (opened.session.by_provider, opened.session.address) == (True, "203.0.113.0/24")
    (form,) = provider.sent
    digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
    assert urlsafe_b64encode(digest).rstrip(b"=").decode() == query["code_challenge"]
    assert (form["code"], form["grant_type"]) == (["canary-code"], ["authorization_code"])
    assert (form["client_secret"], form["redirect_uri"]) == ([CLIENT_SECRET], [query["redirect_uri"]])
    refreshed = refresh(provider.world, opened.refresh_token)
    assert (refreshed.session.name, refreshed.session.by_provider) == (opened.session.name, True)
    assert provider.world.audited("member.identity_linked")[0]["subject"] == opened.identity.subject
    assert provider.world.audited("session.opened")[0]["detail"]["by"] == "identity provider"


def test_login__finds_who_was_linked_whatever_the_address_is_now(provider: Provider) -> None:
    """The provider's user is who was linked; addresses change, and are given to others."""
    li, wang = (create(provider.world, provider.company, each).subject for each in ("li", "wang"))
    assert provider.log_in(sub="7", email="LI@x.example").identity.subject == li
    assert provider.log_in(sub="7", email="wang@x.example").identity.subject == li
    assert provider.log_in(sub="7", email=None, email_verified=None).identity.subject == li
    assert refused(provider.log_in, sub="8", email="li@x.example") == "IDENTITY_LINKED"
    assert provider.log_in(sub="8", email="wang@x.example").identity.subject == wang


def test_login__of_an_unlinked_member_links_anew(provider: Provider) -> None:
    """Who has another user at the provider now; the sessions of the user before end."""
    opened = provider.log_in(sub="7")
    unlink = pb.UnlinkMemberRequest(name=provider.company.owner.subject)
    for _ in range(2):
        provider.as_(provider.company.owner).UnlinkMember(unlink)
    assert len(provider.world.audited("member.identity_unlinked")) == 1
    assert refused(refresh, provider.world, opened.refresh_token) == "SESSION_ENDED"
    assert provider.log_in(sub="8").identity.subject == provider.company.owner.subject
    assert refused(provider.log_in, sub="7") == "IDENTITY_LINKED"


STRANGERS: tuple[tuple[dict[str, object], str], ...] = (
    ({"email_verified": False}, "EMAIL_UNVERIFIED"),
    ({"email_verified": None}, "EMAIL_UNVERIFIED"),
    ({"email_verified": "false"}, "EMAIL_UNVERIFIED"),
    ({"email": None}, "EMAIL_UNVERIFIED"),
    ({"email": 7}, "EMAIL_UNVERIFIED"),
    ({"email": "owner@tianshan.example\0"}, "EMAIL_UNVERIFIED"),
    ({"email": "\ud800"}, "EMAIL_UNVERIFIED"),
    ({"email": "nobody@tianshan.example"}, "MEMBER_UNKNOWN"),
    ({"email": "owner@kunlun.example"}, "MEMBER_UNKNOWN"),
    ({"email": "lin\N{KELVIN SIGN}@x.example"}, "MEMBER_UNKNOWN"),
)


def test_login__of_nobody_we_know(provider: Provider) -> None:
    """Nobody becomes a member, or somebody else's, by the word of a provider; it is written down."""
    provider.world.register(email="owner@kunlun.example")
    create(provider.world, provider.company, "link")
    before = len(provider.world.rows("members"))
    for claims, reason in STRANGERS:
        assert refused(provider.log_in, **claims) == reason, claims
    assert not provider.world.rows("sessions")
    assert not provider.world.rows("identity_links")
    assert len(provider.world.rows("members")) == before
    written = [row["detail"]["reason"] for row in provider.world.audited("login.refused")]
    assert written == [reason for _, reason in STRANGERS]


def test_login__at_entra(provider: Provider) -> None:
    """It has another word for a verified address."""
    assert provider.log_in(email_verified=None, xms_edov=True)


def test_login__of_an_address_of_another_domain(provider: Provider) -> None:
    """Also of who was linked before the domains were set."""
    create(provider.world, provider.company, "li")
    provider.log_in(sub="7", email="li@x.example")
    provider.set(email_domains=["tianshan.example"])
    assert refused(provider.log_in, sub="7", email="li@x.example") == "EMAIL_DOMAIN_NOT_ALLOWED"
    assert provider.log_in(sub="8")


def test_login__asks_for_an_address_that_the_token_lacks(provider: Provider) -> None:
    """At the endpoint for that, which has to speak of the same user."""
    provider.tell(userinfo_endpoint=f"{provider.url}/userinfo")
    told = {"sub": "u1", "email": EMAIL, "email_verified": True}
    provider.later(minutes=10)
    provider.routes["GET /userinfo"] = 200, told | {"sub": "u2"}
    assert refused(provider.log_in, email=None, email_verified=None) == "ID_TOKEN_INVALID"
    provider.routes["GET /userinfo"] = 200, told
    assert provider.log_in(email=None, email_verified=None)


def test_login__by_http_basic(provider: Provider) -> None:
    """Where the provider says nothing, that is how it takes the secret: not in the form."""
    provider.tell(token_endpoint_auth_methods_supported=["private_key_jwt", "client_secret_basic"])
    provider.later(minutes=10)
    provider.log_in()
    assert provider.sent[-1].keys() == {"grant_type", "code", "redirect_uri", "code_verifier"}


def test_login__signatures_that_are_taken(provider: Provider) -> None:
    """Those of OpenID Connect that need a private key, with other keys beside."""
    for sign, key in (
        (signed(RSA_KEY, "RS256"), jwk(RSA_KEY, use="sig", alg="RS256")),
        (signed(RSA_KEY, "PS384"), jwk(RSA_KEY)),
        (signed(EC_KEY, "ES256"), jwk(EC_KEY)),
    ):
        provider.routes["GET /jwks"] = 200, {"keys": [{"kty": "new"}, jwk(OTHER_RSA_KEY, "two"), "x", key]}
        assert provider.log_in(sign=sign, at_hash=None)


def test_login__with_a_key_that_came_in_between(provider: Provider) -> None:
    """Keys are read when they are needed: one that signs since a moment ago is known, one that is gone is not."""
    provider.log_in()
    query = provider.start()
    provider.routes["GET /jwks"] = 200, {"keys": [jwk(OTHER_RSA_KEY, "two")]}
    provider.name(query, header={"kid": "two"}, sign=signed(OTHER_RSA_KEY))
    assert provider.complete(query)
    assert refused(provider.log_in) == "ID_TOKEN_INVALID"


NOW = 1_000_000_000
WRONG_TOKENS: dict[str, tuple[str, dict[str, Any]]] = {
    "unsigned": ("signature", {"sign": by_hand("none", b"")}),
    "unsigned in capitals": ("signature", {"sign": by_hand("NONE", b"")}),
    "HS256 with the public key": ("signature", {"sign": by_hand("HS256", public_pem())}),
    "HS256 with the client's secret": ("signature", {"sign": by_hand("HS256", CLIENT_SECRET.encode())}),
    "RS256 by another key": ("signature", {"sign": signed(OTHER_RSA_KEY)}),
    "RS256, nothing signed": ("signature", {"sign": by_hand("RS256", b"")}),
    "another kind of key": ("signature", {"sign": signed(EC_KEY, "ES256")}),
    "key that is not told": ("signature", {"header": {"kid": "two"}}),
    "key in the header": (
        "signature",
        {"sign": signed(OTHER_RSA_KEY), "header": {"jwk": jwk(OTHER_RSA_KEY)}},
    ),
    "unknown extension": ("signature", {"header": {"crit": ["x"], "x": 1}}),
    "no token": ("signature", {"tokens": {"id_token": "x"}}),
    "encrypted": ("signature", {"tokens": {"id_token": "e30.e30.e30.e30.e30"}}),
    "no object": ("signature", {"tokens": {"id_token": "eyJhbGciOiJSUzI1NiJ9.W10.AA"}}),
    "wrong nonce": ("nonce", {"nonce": "x"}),
    "no nonce": ("nonce", {"nonce": None}),
    "nonce that is no text": ("nonce", {"nonce": ["x"]}),
    "another audience": ("aud", {"aud": "somebody"}),
    "no audience": ("aud", {"aud": None}),
    "audiences without us": ("aud", {"aud": ["somebody", "else"]}),
    "several audiences and no party": ("azp", {"aud": [CLIENT_ID, "somebody"]}),
    "another party": ("azp", {"azp": "somebody"}),
    "another issuer": ("iss", {"iss": "https://login.example"}),
    "issuer with a slash more": ("iss", {"iss": "{url}/"}),
    "expired": ("exp", {"exp": NOW}),
    "no end": ("exp", {"exp": None}),
    "end that is no number": ("exp", {"exp": "tomorrow"}),
    "not yet": ("nbf", {"nbf": 4 * NOW}),
    "from the future": ("iat", {"iat": 4 * NOW}),
    "no subject": ("sub", {"sub": None}),
    "empty subject": ("sub", {"sub": ""}),
    "subject that is no text": ("sub", {"sub": 7}),
    "subject that is too long": ("sub", {"sub": "x" * 256}),
    "subject with a zero": ("sub", {"sub": "a\0b"}),
    "another access token": ("at_hash", {"tokens": {"access_token": "another"}}),
}


def test_id_token__that_is_not_good(provider: Provider) -> None:
    """Each is refused for what is wrong with it, opens nothing, is written down, and has used up its state."""
    for case, (cause, options) in WRONG_TOKENS.items():
        told = {
            name: value.format(url=provider.url) if isinstance(value, str) else value
            for name, value in options.items()
        }
        query = provider.start()
        provider.name(query, **told)
        assert refused(provider.complete, query) == "ID_TOKEN_INVALID", case
        written = provider.world.audited("login.refused")[-1]["detail"]
        assert written == {"reason": "ID_TOKEN_INVALID", "cause": cause}, case
        provider.name(query)
        assert refused(provider.complete, query) == "LOGIN_STATE_USED", case
    assert not provider.world.rows("sessions")
    assert provider.log_in()


# States


def test_state__works_once(provider: Provider) -> None:
    """For whoever comes first of many at once, and never again."""
    query = provider.start()
    provider.name(query)

    def attempt(_: int) -> str:
        try:
            provider.complete(query)
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(attempt, range(6))) == [*["LOGIN_STATE_USED"] * 5, "OK"]
    assert len(provider.sent) == 1


def test_state__works_in_its_browser_only(provider: Provider) -> None:
    """Whoever gets somebody to follow a link with a state of their own logs them in nowhere; and uses up nothing."""
    query = provider.start()
    provider.name(query)
    for other in ("", "c" * 43):
        assert refused(provider.complete, query, browser=other) == "LOGIN_STATE_INVALID"
    assert len(provider.world.audited("login.refused")) == 2
    assert provider.complete(query)


def test_state__works_for_its_enterprise_only(
    provider: Provider, make_provider: Callable[..., Provider]
) -> None:
    """Each has a redirect URI of its own: the answer of one provider is nothing to another (mix-up)."""
    other = make_provider("owner@kunlun.example")
    query = other.start()
    provider.name(query)
    assert refused(provider.complete, query) == "LOGIN_STATE_INVALID"
    assert refused(other.complete, query, parent="enterprises/none") == "LOGIN_STATE_INVALID"
    assert not provider.sent
    assert not other.sent


def test_state__works_for_ten_minutes(provider: Provider) -> None:
    """And is then forgotten, in time."""
    query, later = provider.start(), provider.start()
    provider.name(query)
    provider.later(minutes=10)
    assert refused(provider.complete, query) == "LOGIN_STATE_EXPIRED"
    assert refused(provider.complete, later | {"state": "unknown"}) == "LOGIN_STATE_INVALID"
    with provider.world.database.transaction(PLATFORM) as tx:
        purge_logins(tx)
    assert not provider.world.rows("oidc_logins")


def test_redirect__with_an_error(provider: Provider) -> None:
    """The person or the provider said no; nobody is asked anything. One of code and error there must be."""
    query = provider.start()
    assert violated(lambda: provider.complete(query, error="access_denied")) == {"code": "INVALID"}
    assert violated(lambda: provider.complete(query, code="")) == {"code": "INVALID"}
    assert refused(provider.complete, query, code="", error="access_denied") == "LOGIN_DENIED"
    assert not provider.sent


def test_redirect__of_another_issuer(provider: Provider) -> None:
    """A provider that names itself in redirects must be the one; one that promises to must (RFC 9207)."""
    query = provider.start()
    assert refused(provider.complete, query, iss="https://login.example") == "LOGIN_ISSUER"
    provider.tell(authorization_response_iss_parameter_supported=True)
    provider.later(minutes=10)
    assert refused(provider.log_in) == "LOGIN_ISSUER"
    query = provider.start()
    provider.name(query)
    assert provider.complete(query, iss=provider.url)
    assert len(provider.sent) == 1


# Providers that do not do what they should


ANSWERS: tuple[tuple[int, Any, str], ...] = (
    (400, {"error": "invalid_grant"}, "LOGIN_REFUSED"),
    (401, {"error": "invalid_client"}, "IDENTITY_PROVIDER_UNUSABLE"),
    (400, b"?", "IDENTITY_PROVIDER_UNUSABLE"),
    (403, {}, "IDENTITY_PROVIDER_UNUSABLE"),
    (200, [], "IDENTITY_PROVIDER_UNUSABLE"),
    (200, {"access_token": "x"}, "IDENTITY_PROVIDER_UNUSABLE"),
    (200, b"[" * 100_000, "IDENTITY_PROVIDER_UNUSABLE"),
    (200, b" " * 300_000, "IDENTITY_PROVIDER_UNAVAILABLE"),
    (500, {}, "IDENTITY_PROVIDER_UNAVAILABLE"),
    (429, {}, "IDENTITY_PROVIDER_UNAVAILABLE"),
)


def test_provider__refuses_a_code_or_fails(provider: Provider) -> None:
    """It is told apart who can do something about it: the person, the owner, or time."""
    for status, told, reason in ANSWERS:
        query = provider.start()
        provider.routes["POST /token"] = status, told
        assert refused(provider.complete, query) == reason, (status, told)


@pytest.mark.parametrize("route", ["GET /.well-known/openid-configuration", "GET /jwks", "POST /token"])
def test_provider__redirects_to_a_private_address(provider: Provider, route: str) -> None:
    """Wherever it sends us, we do not go."""
    with socket.create_server(("127.0.0.2", 0)) as inside:
        inside.setblocking(False)
        query = provider.start()
        provider.name(query)
        provider.routes[route] = 302, f"http://127.0.0.2:{inside.getsockname()[1]}/".encode()
        if route.endswith("configuration"):
            provider.later(minutes=10)
            assert refused(provider.start) == "IDENTITY_PROVIDER_UNUSABLE"
        else:
            assert refused(provider.complete, query) == "IDENTITY_PROVIDER_UNUSABLE"
        with pytest.raises(BlockingIOError):
            inside.accept()


METADATA: tuple[dict[str, object], ...] = (
    {"issuer": "https://login.example"},
    {"issuer": None},
    {"authorization_endpoint": "javascript:alert(1)"},
    {"authorization_endpoint": None},
    {"token_endpoint": "http://127.0.0.2/"},
    {"jwks_uri": "http://10.0.0.1/jwks"},
    {"userinfo_endpoint": "http://[::1]/"},
    {"token_endpoint_auth_methods_supported": ["private_key_jwt"]},
    {"token_endpoint_auth_methods_supported": 7},
)


def test_provider__says_of_itself_what_cannot_be(provider: Provider) -> None:
    """Its owner hears of it at once, and nothing is changed."""
    provider.later(minutes=10)
    settings = {"issuer": provider.url, "client_id": "new", "client_secret": "new"}
    for metadata in METADATA:
        provider.tell(**metadata)
        assert refused(provider.set, **settings) == "IDENTITY_PROVIDER_UNUSABLE", metadata
        assert refused(provider.start) == "IDENTITY_PROVIDER_UNUSABLE", metadata
    assert provider.world.rows("identity_providers")[0]["client_id"] == CLIENT_ID


def test_provider__is_away(provider: Provider) -> None:
    """What it said of itself is believed for ten minutes; everything else needs it."""
    query = provider.start()
    provider.name(query)
    provider.routes.pop("GET /.well-known/openid-configuration")
    assert provider.complete(query)
    provider.later(minutes=10)
    assert refused(provider.start) == "IDENTITY_PROVIDER_UNUSABLE"  # 404
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert (
        refused(provider.set, issuer=away, client_id="x", client_secret="x")
        == "IDENTITY_PROVIDER_UNAVAILABLE"
    )


def test_provider__that_hangs_holds_a_few_threads_only(clock: FixedClock) -> None:
    """The ninth who asks the same one is told so at once."""
    providers = Providers(LOOPBACK, clock)
    issuer = "http://127.0.0.1:1"
    with ExitStack() as busy:
        for _ in range(8):
            busy.enter_context(providers._place(issuer))
        with pytest.raises(ServiceError) as error:
            providers.metadata(issuer)
        assert error.value.metadata == {"cause": "TOO_MANY_AT_ONCE"}
        with pytest.raises(ServiceError) as error:
            providers.metadata("http://127.0.0.1:1/other")
        assert error.value.metadata == {"cause": "CONNECTION_FAILED"}
    assert not providers._busy


# Passwords and second factors beside it


def test_required__passwords_are_the_owners_only(provider: Provider) -> None:
    """From the next refresh on; whether a password is right is told to nobody who does not have it."""
    create(provider.world, provider.company, "admin", "ADMIN")
    before = log_in(provider.world, email="admin@x.example")
    provider.set(required=True)
    assert refused(log_in, provider.world, email="admin@x.example") == "IDENTITY_PROVIDER_REQUIRED"
    assert refused(log_in, provider.world, "wrong", email="admin@x.example") == "CREDENTIALS_INVALID"
    assert refused(refresh, provider.world, before.refresh_token) == "IDENTITY_PROVIDER_REQUIRED"
    assert log_in(provider.world).identity.subject == provider.company.owner.subject
    opened = provider.log_in(sub="7", email="admin@x.example")
    assert refresh(provider.world, opened.refresh_token)
    provider.set(required=False)
    assert refresh(provider.world, before.refresh_token)
    assert log_in(provider.world, email="admin@x.example")


def test_second_factor__is_the_providers_in_the_own_enterprise(provider: Provider) -> None:
    """What the owner asks of members is left to the provider that the owner has set."""
    with provider.world.database.transaction(PLATFORM) as tx:
        tx.execute("update enterprises set second_factor_required = true")
    assert refused(log_in, provider.world) == "TOTP_ENROLLMENT_REQUIRED"
    assert refresh(provider.world, provider.log_in().refresh_token)


def test_second_factor__is_ours_where_another_enterprise_asks_for_it(provider: Provider) -> None:
    """A client's requirement is not the agency's provider's to waive; what asks for none is acted for as ever."""
    world, agency = provider.world, provider.company
    client = world.register(email="owner@client.example")
    group = GroupServiceStub(world.running.as_(client.owner)).CreateAccountGroup(
        groups_pb2.CreateAccountGroupRequest(parent=client.name, display_name="Dealers")
    )
    grant(world, client.owner, agency.owner.subject, group.name, role="EDITOR", life=timedelta(hours=1))
    acting = sessions_pb2.RefreshSessionRequest(
        refresh_token=provider.log_in().refresh_token, acts_for=client.name
    )
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update enterprises set second_factor_required = enterprise = %s", (client.name,))
    refresh_session = sessions(world, gateway()).RefreshSession
    assert refused(refresh_session, acting) == "PASSWORD_LOGIN_REQUIRED"
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update enterprises set second_factor_required = false")
    assert refresh_session(acting).identity.enterprise == client.name


# Secrets


def test_secrets__are_in_no_table_log_or_error(logged: Callable[[], str], provider: Provider) -> None:
    """The client's, states, codes, verifiers, tokens, and the browser's."""
    done, failed, pending = (provider.start() for _ in range(3))
    provider.name(done)
    opened = provider.complete(done)
    told = []
    for again in (done, failed | {"state": "x"}):
        with pytest.raises(grpc.RpcError) as error:
            provider.complete(again)
        told.append(repr(error.value))
    provider.routes["POST /token"] = 500, {}
    with pytest.raises(grpc.RpcError) as error:
        provider.complete(failed)
    told.append(repr(error.value))
    id_token = re.compile(r"eyJ[A-Za-z0-9_-]+\.eyJ")
    places = everything(provider.world) | {"logs": logged().encode(), "errors": "\n".join(told).encode()}
    assert b"call.refused" in places["logs"]
    planted = [
        CLIENT_SECRET,
        ACCESS_TOKEN,
        "canary-code",
        BROWSER,
        opened.refresh_token,
        *(form["code_verifier"][0] for form in provider.sent),
        *(each["state"] for each in (done, failed, pending)),
    ]
    hits = [
        f"{secret[:14]}… {form} in {place}"
        for secret in planted
        for form, wanted in forms(secret).items()
        for place, content in places.items()
        if wanted in content
    ]
    assert not hits
    assert not [
        place for place, content in places.items() if id_token.search(content.decode(errors="replace"))
    ]


def test_secrets__that_were_shredded_are_set_anew(provider: Provider) -> None:
    """Until then nobody is logged in by the provider."""
    shred(provider.world, provider.company)
    query = provider.start()
    provider.name(query)
    assert refused(provider.complete, query) == "SECRETS_SHREDDED"
    provider.set(client_secret=CLIENT_SECRET)
    assert provider.log_in()


def test_member__removed_is_unlinked(provider: Provider) -> None:
    """What the provider says of who was a member opens nothing."""
    li = create(provider.world, provider.company, "li")
    provider.log_in(sub="7", email="li@x.example")
    members(provider.world, provider.company.owner).RemoveMember(
        members_pb2.RemoveMemberRequest(name=li.subject)
    )
    assert not provider.world.rows("identity_links")
    assert refused(provider.log_in, sub="7", email="li@x.example") == "MEMBER_UNKNOWN"
