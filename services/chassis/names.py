"""Resource names, as `enterprises/{enterprise}/accounts/{account}` (google.aip.dev/122)."""

import re

from services.chassis.errors import invalid

_ID = r"[a-z0-9][a-z0-9-]{0,62}"
_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_ENTERPRISE = re.compile(rf"(enterprises/{_ID})(?:/.*)?", re.DOTALL)


class NamePattern:
    """
    One shape of resource name. Ids are 1 to 63 characters of a-z, 0-9 and hyphen, and do not begin with a
    hyphen.

    Example: `NamePattern("enterprises/{enterprise}/accounts/{account}")`.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._regex = re.compile(_VARIABLE.sub(rf"(?P<\1>{_ID})", pattern))

    def format(self, **ids: str) -> str:
        """The name made of these ids. Raises ValueError when one is missing, too many or not an id."""
        try:
            name = self.pattern.format(**ids)
        except KeyError as missing:
            raise ValueError(f"{self.pattern} needs the id {missing}") from None
        if self._match(name) != ids:
            raise ValueError(f"{ids} do not make a name of the form {self.pattern}")
        return name

    def parse(self, name: str, field: str = "name") -> dict[str, str]:
        """The ids in `name`. Raises INVALID_ARGUMENT, naming `field`, when it has another form."""
        ids = self._match(name)
        if ids is None:
            raise invalid(field, f"must have the form {self.pattern}", reason="NAME_MALFORMED")
        return ids

    def matches(self, name: str) -> bool:
        """Whether `name` has this form."""
        return self._match(name) is not None

    def _match(self, name: str) -> dict[str, str] | None:
        found = self._regex.fullmatch(name)
        return found.groupdict() if found else None


def enterprise_of(name: str) -> str | None:
    """The enterprise to which a resource belongs, as `enterprises/x`; None for a resource of the platform."""
    found = _ENTERPRISE.fullmatch(name)
    return found.group(1) if found else None
