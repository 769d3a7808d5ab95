"""
An identity provider of the tests' own, for what an honest one cannot be brought to do. (An honest one: `tests/contract/test_oidc.py`.)

It answers what it is told; its ID tokens are made by PyJWT, which the service itself does not use for them.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from numerator.accounts.v1 import identity_providers_pb2 as pb
from numerator.accounts.v1.identity_providers_pb2_grpc import IdentityProviderServiceStub
from numerator.accounts.v1.sessions_pb2 import OpenedSession

from services.accounts.tests.servers import Routes
from services.accounts.tests.world import Company, World
from services.chassis.principal import Principal
from services.chassis.testing.rpc import gateway

CLIENT_ID = "numerator of tianshan"
CLIENT_SECRET = "canary-client-secret+%:"
ACCESS_TOKEN = "canary-access-token"
BROWSER = "b" * 43
Json = dict[str, Any]
Sign = Callable[[Json, Json], str]

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def signed(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = RSA_KEY, algorithm: str = "RS256") -> Sign:
    """Signs as a provider does."""
    return lambda header, claims: jwt.encode(claims, key, algorithm, headers={"kid": "one"} | header)


def by_hand(algorithm: str, secret: bytes) -> Sign:
    """Makes what PyJWT refuses to: no signature, or one that anybody can make who knows a public key."""

    def sign(header: Json, claims: Json) -> str:
        head = {"typ": "JWT", "alg": algorithm, "kid": "one"} | header
        text = ".".join(_encoded(json.dumps(each).encode()) for each in (head, claims))
        digest = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
        return f"{text}.{_encoded(digest)}"

    return sign


def public_pem() -> bytes:
    """The provider's public key, as an attacker finds it."""
    return RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str = "one", **more: str) -> Json:
    """The public part of a key, as a provider tells it."""
    kind: Any = (
        jwt.algorithms.ECAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else jwt.algorithms.RSAAlgorithm
    )
    told: Json = kind.to_jwk(key.public_key(), as_dict=True)
    return {each: told[each] for each in told if each != "key_ops"} | {"kid": kid} | more


@dataclass
class Provider:
    """
    A provider and the enterprise that has set it.

    Attributes:
        url: its issuer.
        routes: what it answers; may be changed at any time.
        sent: the forms that were posted to it.
    """

    world: World
    company: Company
    url: str
    routes: Routes
    sent: list[dict[str, list[str]]] = field(default_factory=list)

    def tell(self, **metadata: object) -> None:
        """Tell metadata, with what is given, and the key."""
        told = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }
        self.routes["GET /.well-known/openid-configuration"] = 200, told | metadata
        self.routes["GET /jwks"] = 200, {"keys": [jwk(RSA_KEY)]}

    def as_(self, principal: Principal) -> IdentityProviderServiceStub:
        """The service, as somebody sees it."""
        return IdentityProviderServiceStub(self.world.running.as_(principal))

    def set(self, **fields: Any) -> pb.IdentityProvider:
        """Have the enterprise's owner set it, or change what is given."""
        given = fields or {"issuer": self.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        return self.as_(self.company.owner).UpdateIdentityProvider(
            pb.UpdateIdentityProviderRequest(name=f"{self.company.name}/identityProvider", **given)
        )

    def start(self, browser: str = BROWSER, company: Company | None = None) -> Mapping[str, str]:
        """Begin a login; the parameters that the provider gets."""
        started = self.as_(gateway()).StartLogin(
            pb.StartLoginRequest(parent=(company or self.company).name, browser=browser)
        )
        return {
            name: values[0] for name, values in parse_qs(urlsplit(started.authorization_url).query).items()
        }

    def name(
        self,
        query: Mapping[str, str],
        *,
        header: Json | None = None,
        sign: Sign | None = None,
        tokens: Json | None = None,
        **claims: object,
    ) -> None:
        """Name a user when the code is redeemed: `sub` u1, unless told otherwise. A claim that is None is left out."""
        now = int(self.world.clock.now().timestamp())
        named = {
            "iss": self.url,
            "sub": "u1",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": query["nonce"],
            "at_hash": _encoded(hashlib.sha256(ACCESS_TOKEN.encode()).digest()[:16]),
            "email": "owner@tianshan.example",
            "email_verified": True,
        } | claims
        token = (sign or signed())(
            header or {}, {claim: value for claim, value in named.items() if value is not None}
        )
        answer = {"access_token": ACCESS_TOKEN, "token_type": "Bearer", "id_token": token}
        self.routes["POST /token"] = 200, answer | (tokens or {})

    def complete(self, query: Mapping[str, str], **fields: str) -> OpenedSession:
        """Bring the browser back."""
        given = {"code": "canary-code", "browser": BROWSER, "parent": self.company.name} | fields
        return self.as_(gateway()).CompleteLogin(pb.CompleteLoginRequest(state=query["state"], **given))

    def log_in(self, **named: Any) -> OpenedSession:
        """From start to end."""
        query = self.start()
        self.name(query, **named)
        return self.complete(query)

    def later(self, **life: int) -> None:
        """Let time pass."""
        self.world.clock.advance(timedelta(**life))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
