"""The form of signed tokens, before anybody looks at what is in them."""

import base64
import re

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


def is_compact(token: str) -> bool:
    """
    Whether a text is a signed JWT in its one compact form: three parts, in base64 without padding and stray bits.

    Decoders pass over much of what is no base64. The signature covers the text of the other two parts, but not its own.
    """
    if not _FORM.fullmatch(token):
        return False
    signature = token.rpartition(".")[2]
    if len(signature) % 4 == 1:
        return False
    decoded = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    return base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == signature
