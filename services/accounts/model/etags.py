"""Etags, by which a caller says what it has seen."""

from services.chassis.errors import etag_mismatch


def check_etag(given: str, revision: int) -> None:
    """Raises ABORTED (`ETAG_MISMATCH`) when a caller gave an etag and it is not that of `revision`."""
    if given and given != etag_of(revision):
        raise etag_mismatch()


def etag_of(revision: int) -> str:
    """The etag of a resource's revision."""
    return f"r{revision}"
