"""What keeps an account from being bound."""

from datetime import timedelta

from services.chassis.errors import Kind, ServiceError

BINDING_LIFE = timedelta(minutes=10)
"""How long a binding may take from its start to its completion."""


class BindingRefusedError(ServiceError):
    """A binding cannot be completed. Each is written to the audit trail."""


def binding_refused(reason: str, message: str, **metadata: str) -> BindingRefusedError:
    """FAILED_PRECONDITION with the reason; the message says what to do instead."""
    return BindingRefusedError(Kind.FAILED_PRECONDITION, reason, message, metadata=metadata)


def account_out_of_reach() -> BindingRefusedError:
    """The enterprise has the account, where the caller may not bind."""
    return BindingRefusedError(
        Kind.PERMISSION_DENIED,
        "OUT_OF_REACH",
        "the enterprise has this account in a group that your rights do not reach: ask its administrator",
    )


def account_bound_elsewhere() -> BindingRefusedError:
    """Another enterprise acts for the account. Which one, nobody is told."""
    return BindingRefusedError(
        Kind.ALREADY_EXISTS,
        "ACCOUNT_BOUND_ELSEWHERE",
        "another enterprise acts for this account: it has to unbind it first",
    )
