"""
Mutations of valid tokens, none of which may be accepted. Seeded, so that a failure can be repeated.

For the gateway's access tokens and for principals, in memory and over HTTP.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle, islice
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

JsonObject = dict[str, Any]
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_DEEPER = '{"a":'
_TIMES = ("iat", "nbf", "exp")


@dataclass(frozen=True)
class Target:
    """
    A token that is accepted, and what an attacker may know.

    Attributes:
        token: the valid token.
        key: the key that signed it. Its public half is anybody's; with the private one, tokens are also signed that are wrong in
            nothing but what they say. None, with `public_key`, where it is not at hand.
        public_key: of the key that signed.
        strangers: tokens that are valid for other uses.
        lifetime: the seconds after which a token is certainly refused.
    """

    token: str
    public_key: ed25519.Ed25519PublicKey
    key: ed25519.Ed25519PrivateKey | None = None
    strangers: tuple[str, ...] = ()
    lifetime: int = 3600

    @property
    def header(self) -> JsonObject:
        """Its header."""
        return _parsed(self.token.split(".")[0])

    @property
    def claims(self) -> JsonObject:
        """Its claims."""
        return _parsed(self.token.split(".")[1])


@dataclass(frozen=True)
class Mutation:
    """A token that must be refused, and what was done to it."""

    kind: str
    token: str


def mutations(target: Target, *, count: int, seed: int = 1) -> Iterator[Mutation]:
    """`count` different mutations, of all kinds in turn."""
    mutator = _Mutator(target, random.Random(seed))
    seen = {target.token}
    for kind, mutate in cycle(mutator.kinds().items()):
        if len(seen) > count:
            return
        token = mutate()
        if token not in seen:
            seen.add(token)
            yield Mutation(kind, token)


async def attack(
    http: httpx.AsyncClient, path: str, tokens: Iterable[Mutation], *, at_once: int = 20
) -> Counter[tuple[int, str, str]]:
    """Send each token to a gateway, some at a time; how often each came to which status, reason and, but for 401, kind."""

    async def send(mutation: Mutation) -> tuple[int, str, str]:
        answer = await http.get(path, headers={"authorization": b"Bearer " + mutation.token.encode()})
        reason = answer.json().get("reason", "")
        return (
            answer.status_code,
            reason,
            "" if answer.status_code == HTTPStatus.UNAUTHORIZED else mutation.kind,
        )

    outcomes: Counter[tuple[int, str, str]] = Counter()
    waiting = iter(tokens)
    while batch := list(islice(waiting, at_once)):
        outcomes.update(await asyncio.gather(*map(send, batch)))
    return outcomes


class _Mutator:
    def __init__(self, target: Target, chance: random.Random) -> None:
        self._target = target
        self._chance = chance
        self._parts = target.token.split(".")
        self._edward = ed25519.Ed25519PrivateKey.generate()
        self._elliptic = ec.generate_private_key(ec.SECP256R1())
        self._rsa = rsa.generate_private_key(65537, 2048)

    def kinds(self) -> Mapping[str, Callable[[], str]]:
        """All kinds of mutations: those that need our private key only where it is at hand."""
        return {
            **self._kinds("forged_"),
            **self._kinds("bent_"),
            **(self._kinds("signed_") if self._target.key else {}),
            **(
                {"stranger": lambda: self._chance.choice(self._target.strangers)}
                if self._target.strangers
                else {}
            ),
        }

    def _kinds(self, prefix: str) -> dict[str, Callable[[], str]]:
        return {name.strip("_"): getattr(self, name) for name in dir(self) if name.startswith(f"_{prefix}")}

    # What an attacker signs, or does not.

    def _forged_without_a_signature(self) -> str:
        algorithm = "".join(self._chance.choice((each, each.upper())) for each in "none")
        head = self._head(alg=self._chance.choice((algorithm, "", None, [], {"alg": "none"})))
        return ".".join((head, self._greedy(), self._chance.choice(("", self._parts[2], self._noise(86)))))

    def _forged_with_the_public_key_as_secret(self) -> str:
        bits = self._chance.choice((256, 384, 512))
        raw = self._target.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        pem = self._target.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        der = self._target.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        jwk = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": _encoded(raw)}).encode()
        secret = self._chance.choice(
            (pem, pem.strip(), raw, der, _encoded(raw).encode(), jwk, b"", b"secret")
        )
        signing = f"{self._head(alg=f'HS{bits}')}.{self._greedy()}"
        return f"{signing}.{_encoded(hmac.new(secret, signing.encode(), f'sha{bits}').digest())}"

    def _forged_with_another_key(self) -> str:
        algorithm = self._chance.choice(("EdDSA", "Ed25519", "ES256", "RS256", "PS256"))
        return self._by_attacker(self._head(alg=algorithm), self._greedy(), algorithm)

    def _forged_with_algorithms_mixed(self) -> str:
        said, used = self._chance.sample(("EdDSA", "ES256", "RS256", "PS256", "HS256", "ES512", "RS512"), 2)
        return self._by_attacker(self._head(alg=said), self._greedy(), used)

    def _forged_with_a_key_of_its_own(self) -> str:
        raw = self._edward.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": _encoded(raw), "kid": self._noise(10)}
        url = f"https://{self._noise(6).lower()}.example/keys.json"
        more = self._chance.choice(
            (
                {"jwk": jwk},
                {"jku": url},
                {"x5u": url},
                {"x5c": [base64.b64encode(raw).decode()]},
                {"x5t": self._noise(27)},
            )
        )
        kid = self._chance.choice(({}, {"kid": jwk["kid"]}))
        return self._by_attacker(self._head(**more, **kid), self._greedy(), "EdDSA")

    def _forged_with_a_strange_key_id(self) -> str:
        kid = self._chance.choice(
            (
                "../../../../dev/null",
                f"/proc/self/environ{self._noise(3)}",
                "' or '1'='1",
                f"x' union select '{self._noise(8)}' --",
                f"https://{self._noise(6).lower()}.example/key.pem",
                "| cat /etc/passwd",
                f"${{jndi:ldap://{self._noise(5)}}}",
                "\x00",
                "",
                None,
                0,
                True,
                [self._target.header.get("kid")],
                {"kid": self._target.header.get("kid")},
                self._noise(43),
                "k" * self._chance.randrange(100, 3000),
            )
        )
        return self._by_attacker(self._head(kid=kid), self._greedy(), self._chance.choice(("EdDSA", "HS256")))

    def _forged_with_critical_headers(self) -> str:
        crit = self._chance.choice((["exp"], ["b64"], ["alg"], [], "b64", [self._noise(5)], None))
        more = self._chance.choice(({}, {"b64": False}, {"zip": "DEF"}, {"enc": "A256GCM"}, {"cty": "JWT"}))
        return self._by_attacker(self._head(crit=crit, **more), self._greedy(), "EdDSA")

    def _forged_with_repeated_keys(self) -> str:
        header = json.dumps(self._target.header)
        twice = self._chance.choice(
            (
                f'{{"alg": "none", {header[1:]}',
                f'{header[:-1]}, "alg": "none"}}',
                f'{header[:-1]}, "kid": "{self._noise(6)}"}}',
            )
        )
        return ".".join((_encoded(twice), self._parts[1], self._chance.choice(("", self._parts[2]))))

    # What is left of the valid one.

    def _bent_bit_of_the_header(self) -> str:
        return ".".join((self._flipped(self._parts[0]), *self._parts[1:]))

    def _bent_bit_of_the_claims(self) -> str:
        return ".".join((self._parts[0], self._flipped(self._parts[1]), self._parts[2]))

    def _bent_bit_of_the_signature(self) -> str:
        return ".".join((*self._parts[:2], self._flipped(self._parts[2])))

    def _bent_spelling_of_the_signature(self) -> str:
        # All of these decode to the same bytes where a decoder is lenient.
        signature = self._parts[2]
        place = self._chance.randrange(len(signature))
        last = _ALPHABET.index(signature[-1])
        spelled = self._chance.choice(
            (
                f"{signature}{'=' * self._chance.randrange(1, 5)}",
                f"{signature[:place]}{self._chance.choice('!*~$%:;,@')}{signature[place:]}",
                signature[:-1] + _ALPHABET[last ^ self._chance.randrange(1, 16)],
                signature.replace("-", "+").replace("_", "/") + "=",
            )
        )
        return ".".join((*self._parts[:2], spelled))

    def _bent_claims(self) -> str:
        return ".".join((self._parts[0], self._greedy(), self._parts[2]))

    def _bent_letters(self) -> str:
        token = list(self._target.token)
        for place in self._chance.sample(range(len(token) - 6), self._chance.randrange(1, 4)):
            token[place] = self._chance.choice([each for each in _ALPHABET if each != token[place]])
        return "".join(token)

    def _bent_length(self) -> str:
        token = self._target.token
        cut = self._chance.randrange(1, len(token))
        return self._chance.choice((token[:-cut], token[cut:], token[: cut - 1] + token[cut:]))

    def _bent_parts(self) -> str:
        header, claims, signature = self._parts
        return self._chance.choice(
            (
                f"{header}.{claims}.{signature}.{signature}",
                f"{header}.{header}.{claims}.{signature}",
                f"{self._target.token}.{self._noise(8)}",
                f"{self._noise(8)}.{self._target.token}",
                self._target.token * self._chance.randrange(2, 5),
                f"{header}..{signature}",
                f".{claims}.{signature}",
                f"{claims}.{header}.{signature}",
                f"{header}.{signature}.{claims}",
                f"{header}.{claims}.{self._noise(self._chance.randrange(1, 200))}",
                f"{header}.{self._noise(30)}.{self._noise(16)}.{claims}.{signature}",
                json.dumps(
                    {"payload": claims, "protected": header, "signature": signature, "x": self._noise(4)}
                ),
            )
        )

    def _bent_to_be_huge(self) -> str:
        size = self._chance.randrange(2_000, 20_000)
        header, claims, signature = self._parts
        return self._chance.choice(
            (
                "A" * size,
                f"{header}.{claims}{'A' * size}.{signature}",
                f"{_encoded('[' * size)}.{claims}.{signature}",
                f"{_encoded(_DEEPER * (size // 5))}.{claims}.{signature}",
                "." * size,
                f"{self._head(alg='9' * (size // 2))}.{claims}.{signature}",
            )
        )

    def _bent_to_other_letters(self) -> str:
        place = self._chance.randrange(len(self._target.token))
        other = chr(self._chance.choice((0xE9, 0x200B, 0xFF21, 0x1F600, 0x202E, 0x0410)))
        return self._target.token[:place] + other + self._target.token[place + 1 :]

    def _bent_to_other_json(self) -> str:
        value: Any = self._chance.choice(([], None, 5, "x", [self._target.header], {}, True))
        text = self._chance.choice(
            (json.dumps(value), "{", "{'a':1}", f'{{"alg":{self._noise(4)}}}', "\ufeff{}", "NaN")
        )
        parts = list(self._parts)
        parts[self._chance.randrange(2)] = _encoded(text)
        return ".".join(parts)

    # What our own key has signed, and is wrong all the same.

    def _signed_at_another_time(self) -> str:
        later = self._chance.randrange(60, 10**6)
        claims = self._target.claims
        long_ago = {name: claims[name] - self._target.lifetime - later for name in _TIMES if name in claims}
        future = {name: claims[name] + later for name in ("iat", "nbf") if name in claims}
        return self._by_us(claims | self._chance.choice((long_ago, future)))

    def _signed_for_others(self) -> str:
        name = self._chance.choice(("iss", "aud"))
        value = self._chance.choice(
            (
                f"https://{self._noise(6)}.example",
                "",
                [],
                None,
                [self._noise(5)],
                5,
                {"a": 1},
                f"{self._target.claims[name]}/",
            )
        )
        return self._by_us(self._target.claims | {name: value})

    def _signed_without_a_claim(self) -> str:
        claims = self._target.claims
        for name in self._chance.sample(
            ("iss", "aud", "sub", "exp", "iat", "kind"), self._chance.randrange(1, 4)
        ):
            del claims[name]
        return self._by_us(claims | {"x": self._noise(4)})

    def _signed_for_another_kind(self) -> str:
        kind = self._chance.choice((self._noise(6), "", None, [], {}, 5, "member", "MEMBER ", "ROOT"))
        return self._by_us(self._target.claims | {"kind": kind, "x": self._noise(4)})

    def _signed_with_wrong_types(self) -> str:
        name, value = self._chance.choice(
            (
                ("exp", "soon"),
                ("exp", None),
                ("exp", [1]),
                ("exp", float("nan")),
                ("exp", float("inf")),
                ("iat", float("inf")),
                ("iat", {}),
                ("sub", 5),
                ("sub", None),
                ("roles", 5),
                ("roles", [[]]),
                ("grants", 5),
                ("grants", {"EDITOR": []}),
                ("grants", {"EDITOR": [5]}),
                ("enterprise", 5),
                ("enterprise", ["enterprises/x"]),
                ("enterprise", "enterprises/../x"),
                ("enterprise", "x"),
                ("enterprise", None),
            )
        )
        return self._by_us(self._target.claims | {name: value, "x": self._noise(4)})

    def _signed_no_claims(self) -> str:
        payload = self._chance.choice(
            ("[]", "null", "5", '"x"', "", "{", "[" * self._chance.randrange(1000, 4000), self._noise(9))
        )
        return self._by_us_raw(self._parts[0], _encoded(payload))

    def _by_us(self, claims: JsonObject) -> str:
        return self._by_us_raw(self._parts[0], _encoded(json.dumps(claims)))

    def _by_us_raw(self, head: str, body: str) -> str:
        assert self._target.key
        return f"{head}.{body}.{_encoded(self._target.key.sign(f'{head}.{body}'.encode()))}"

    def _by_attacker(self, head: str, body: str, algorithm: str) -> str:
        content = f"{head}.{body}".encode()
        if algorithm.startswith("ES"):
            der = self._elliptic.sign(content, ec.ECDSA(SHA256()))
            signature = b"".join(each.to_bytes(32, "big") for each in utils.decode_dss_signature(der))
        elif algorithm.startswith("RS"):
            signature = self._rsa.sign(content, padding.PKCS1v15(), SHA256())
        elif algorithm.startswith("PS"):
            signature = self._rsa.sign(content, padding.PSS(padding.MGF1(SHA256()), 32), SHA256())
        elif algorithm.startswith("HS"):
            signature = hmac.new(self._noise(16).encode(), content, hashlib.sha256).digest()
        else:
            signature = self._edward.sign(content)
        return f"{head}.{body}.{_encoded(signature)}"

    def _head(self, **changes: Any) -> str:
        return _encoded(json.dumps(self._target.header | changes))

    def _greedy(self) -> str:
        """Claims as an attacker would like them: another's tenant, name, rights or times."""
        wish = self._chance.choice(
            (
                {"enterprise": f"enterprises/{self._noise(8).lower()}"},
                {"sub": f"enterprises/x/members/{self._noise(8).lower()}"},
                {"roles": ["OWNER"], "jti": self._noise(8)},
                {"scope": "accounts.write", "scopes": ["accounts.write"], "jti": self._noise(8)},
                {"kind": self._chance.choice(("OPERATOR", "GATEWAY")), "jti": self._noise(8)},
                {"grants": {"OWNER": [self._noise(6)]}},
                {"exp": self._target.claims["exp"] + self._chance.randrange(1, 10**9)},
                {"aud": self._noise(6)},
                {"limits": {"bound_accounts": self._chance.randrange(1, 10**6)}},
            )
        )
        return _encoded(json.dumps(self._target.claims | wish))

    def _flipped(self, part: str) -> str:
        content = bytearray(_decoded(part))
        content[self._chance.randrange(len(content))] ^= 1 << self._chance.randrange(8)
        return _encoded(bytes(content))

    def _noise(self, length: int) -> str:
        return "".join(self._chance.choices(_ALPHABET, k=length))


def _encoded(content: bytes | str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _parsed(part: str) -> JsonObject:
    value: JsonObject = json.loads(_decoded(part))
    return value
