"""The keys of the gateway: one signs, several are accepted, so that a new one can take over without a refused request."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from services.chassis.compact import is_compact

_ALGORITHM = "EdDSA"
_HEADERS = {"alg", "typ", "kid"}
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


class Keys:
    """
    Signs JWTs, and reads those that one of the keys has signed.

    Attributes:
        jwks: the public keys, as a JSON Web Key Set.
    """

    def __init__(self, private_key_pem: str, public_keys_pem: str = "") -> None:
        """
        Args:
            private_key_pem: signs; Ed25519.
            public_keys_pem: any number of keys that are accepted besides: the one that signs next, those that signed before.

        Raises ValueError or TypeError for what is no such key.
        """
        private = load_pem_private_key(private_key_pem.encode(), password=None)
        if not isinstance(private, Ed25519PrivateKey):
            raise TypeError("the gateway's key must be Ed25519")
        further = [load_pem_public_key(pem.encode()) for pem in _PEM.findall(public_keys_pem)]
        if public_keys_pem.strip() and not further:
            raise ValueError("the gateway's further keys must be public keys in PEM form")
        self._private = private
        self._public: dict[str, Ed25519PublicKey] = {}
        jwks = []
        for key in [private.public_key(), *further]:
            if not isinstance(key, Ed25519PublicKey):
                raise TypeError("the gateway's further keys must be Ed25519")
            jwk = _jwk(key)
            if jwk["kid"] not in self._public:
                self._public[jwk["kid"]] = key
                jwks.append(jwk)
        self._key_id = jwks[0]["kid"]
        self.jwks: dict[str, Any] = {"keys": jwks}

    def sign(self, claims: Mapping[str, Any], kind: str) -> str:
        """A JWT of this type (`typ`)."""
        headers = {"typ": kind, "kid": self._key_id}
        return jwt.encode(dict(claims), self._private, algorithm=_ALGORITHM, headers=headers)

    def read(
        self, token: str, kind: str, *, issuer: str, audience: str, require: Sequence[str]
    ) -> dict[str, Any]:
        """
        The claims of a JWT of this type that one of our keys has signed. Its times are the caller's to check.

        Raises jwt.InvalidTokenError.
        """
        if not is_compact(token):
            raise jwt.InvalidTokenError("not a token")
        try:
            header = jwt.get_unverified_header(token)
        except RecursionError:  # brackets without end
            raise jwt.InvalidTokenError("not a token") from None
        # Exactly what we write: no header that brings a key, or asks for what we do not know (`crit`).
        key = self._public.get(header["kid"]) if set(header) == _HEADERS else None
        if key is None or header["typ"] != kind:
            raise jwt.InvalidTokenError("not a token of ours")
        return jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],
            audience=audience,
            issuer=issuer,
            options={
                "require": list(require),
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )


def _jwk(key: Ed25519PublicKey) -> dict[str, Any]:
    """The key as RFC 8037 writes it, named by its thumbprint (RFC 7638)."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    required = {"crv": "Ed25519", "kty": "OKP", "x": _base64(raw)}
    thumbprint = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    return {**required, "kid": _base64(thumbprint), "use": "sig", "alg": _ALGORITHM, "key_ops": ["verify"]}


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
