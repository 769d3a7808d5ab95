"""What the cross-tenant calls are generated from."""

from tests.contract.calls import id_fields, methods
from tests.contract.cross_tenant import BODIES

FIELDS = {
    "GetDelivery": {"name": "enterprises/*/publications/*/deliveries/*"},
    "ListDeliveries": {"parent": "enterprises/*/publications/*"},
    "CreatePublication": {
        "parent": "enterprises/*",
        "publication.name": "enterprises/*/publications/*",
        "publication.variants[].accounts[]": "enterprises/*/accounts/*",
        "publication.accounts[]": "enterprises/*/accounts/*",
        "publication.exclude_accounts[]": "enterprises/*/accounts/*",
    },
    "EstimateAudience": {
        "parent": "enterprises/*",
        "definition.audience": "enterprises/*/audiences/*",
        "definition.not.audience": "enterprises/*/audiences/*",
        "definition.all.rules[].audience": "enterprises/*/audiences/*",
        "definition.any.rules[].audience": "enterprises/*/audiences/*",
    },
}


def test_id_fields__are_found_nested_and_repeated() -> None:
    """By path, by reference, by the resource they are in; in lists, and in messages that hold themselves."""
    found = {method.name: {str(each): each.shape for each in id_fields(method)} for _, method in methods()}

    for method, fields in FIELDS.items():
        assert fields.items() <= found[method].items()


def test_bodies__are_of_methods_that_exist() -> None:
    """No body is left over from a method that has gone."""
    assert BODIES.keys() <= {method.name for _, method in methods()}
