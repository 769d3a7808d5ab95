"""Who may call a method, from `(numerator.options.v1.access)`, and for which tenant."""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from numerator.options.v1 import options_pb2

from services.chassis.database.scope import PLATFORM, PUBLIC, Scope, Tenant
from services.chassis.errors import Kind, ServiceError, not_found
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal
from services.chassis.reach import EVERYTHING, Reach
from services.chassis.rpc.paths import field_at, path_fields, value_at

DEFAULT_DEADLINE_SECONDS = 5.0
_ALL_ROLES = frozenset(options_pb2.Role.keys()) - {"ROLE_UNSPECIFIED"}
_ROLES = _ALL_ROLES - {"LIMITED"}
_OVER_ALL = frozenset({"OPERATOR", "GATEWAY"})


def full_name(method: MethodDescriptor) -> str:
    """`package.Service/Method`, as logs, metrics and traces name a method."""
    return f"{method.containing_service.full_name}/{method.name}"


def deadline_of(method: MethodDescriptor) -> float:
    """How long a call of this method may take, in seconds."""
    return method.GetOptions().Extensions[options_pb2.access].deadline_seconds or DEFAULT_DEADLINE_SECONDS


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What a caller of one method needs."""

    method: str
    callers: frozenset[str]
    roles: frozenset[str]
    scope: str
    per_group: bool
    own: bool
    name_fields: tuple[str, ...]

    @classmethod
    def of(cls, method: MethodDescriptor) -> "AccessRule":
        """
        Raises ValueError for a method that does not say who may call it: it would be open or dead by
            accident.
        """
        access = method.GetOptions().Extensions[options_pb2.access]
        callers = {options_pb2.Caller.Name(each) for each in access.callers} - {"CALLER_UNSPECIFIED"}
        if not callers:
            raise ValueError(
                f"{full_name(method)} has no (numerator.options.v1.access).callers: say who may call it"
            )
        fields = dict.fromkeys([*path_fields(method), "name", "parent"])
        return cls(
            method=full_name(method),
            callers=frozenset(callers),
            roles=frozenset(options_pb2.Role.Name(each) for each in access.roles),
            scope=access.scope,
            per_group=access.per_group,
            own=access.own,
            name_fields=tuple(field for field in fields if _is_text(method, field)),
        )

    def admit(self, principal: Principal) -> None:
        """
        Raises UNAUTHENTICATED `CREDENTIALS_MISSING` for nobody where somebody is needed, else
        PERMISSION_DENIED with `CALLER_NOT_ALLOWED`, `ROLE_MISSING` or `SCOPE_MISSING`.
        """
        if "ANONYMOUS" in self.callers:
            return
        if principal.kind == "ANONYMOUS":
            raise ServiceError(
                Kind.UNAUTHENTICATED, "CREDENTIALS_MISSING", "log in, or send a client's access token"
            )
        if principal.kind not in self.callers:
            raise ServiceError(
                Kind.PERMISSION_DENIED,
                "CALLER_NOT_ALLOWED",
                f"{self.method} is for {_one_of(self.callers)}, not for {principal.kind}",
                metadata={"method": self.method, "callers": _one_of(self.callers), "caller": principal.kind},
            )
        everywhere, somewhere = self._held(principal)
        if everywhere or (self.per_group and somewhere):
            return
        if principal.kind == "MEMBER":
            roles = self._roles
            raise ServiceError(
                Kind.PERMISSION_DENIED,
                "ROLE_MISSING",
                f"{self.method} needs the role {_one_of(roles)}{self._where()}",
                metadata={"method": self.method, "roles": _one_of(roles)},
            )
        if principal.kind == "CLIENT":
            raise ServiceError(
                Kind.PERMISSION_DENIED,
                "SCOPE_MISSING",
                f"{self.method} needs the scope {self.scope}{self._where()}",
                metadata={"method": self.method, "scope": self.scope},
            )

    def reach(self, principal: Principal) -> Reach:
        """Which accounts an admitted call may see or change."""
        everywhere, somewhere = self._held(principal)
        if everywhere:
            return EVERYTHING
        return Reach(somewhere, reads_all=bool(principal.roles & _ROLES or principal.scopes))

    def _held(self, principal: Principal) -> tuple[bool, frozenset[str]]:
        """Whether the caller has what the method needs in the whole enterprise; and the groups in which it has it."""
        match principal.kind:
            case "MEMBER":
                needed, held = self._roles, principal.roles
            case "CLIENT" if self.scope:
                needed, held = frozenset({self.scope}), principal.scopes
            case _:
                return True, frozenset()
        return bool(needed & held), frozenset().union(*(principal.grants.get(each, ()) for each in needed))

    @property
    def _roles(self) -> frozenset[str]:
        """The roles of which a member needs one."""
        return _ALL_ROLES if self.own else self.roles or _ROLES

    def _where(self) -> str:
        return "" if self.per_group else " in the whole enterprise"

    def tenant(self, principal: Principal, request: Message | None, *, check: bool) -> Scope:
        """
        Whose rows the call may see.

        Raises NOT_FOUND when the request names a resource of an enterprise that is not the caller's, as if it
        did not exist; `check=False` leaves that to row-level security.
        """
        named = list(self._names(request)) if request is not None else []
        if check and principal.enterprise and "ANONYMOUS" not in self.callers:
            for name, enterprise in named:
                if enterprise != principal.enterprise:
                    raise not_found(name)
        if not check and principal.enterprise:
            # What row-level security must hold against: the caller's own scope, whatever the request names.
            return Tenant(principal.enterprise)
        whose = named[0][1] if named else principal.enterprise
        if whose:
            return Tenant(whose)
        return PLATFORM if principal.kind in _OVER_ALL else PUBLIC

    def _names(self, request: Message) -> Iterable[tuple[str, str]]:
        for path in self.name_fields:
            value = str(value_at(request, path))
            enterprise = enterprise_of(value)
            if enterprise:
                yield value, enterprise


def _one_of(names: frozenset[str]) -> str:
    return " or ".join(sorted(names))


def _is_text(method: MethodDescriptor, path: str) -> bool:
    field = field_at(method.input_type, path)
    return field is not None and field.type == field.TYPE_STRING and not field.is_repeated
