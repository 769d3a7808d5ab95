"""Every service is replaced while people use it, and nobody notices."""

from collections.abc import Sequence

import pytest

from deploy.compose.stack import Stack
from deploy.demo.client import eventually
from deploy.local.programs import SERVICES
from tests.compose.conftest import Note
from tests.compose.outside import Outside, under_load

KINDS = ("accounts-api", "publishing-worker", "accounts-webhooks", "publishing-sender", "gateway")
"""One of each kind of process."""
OTHERS = tuple(
    name
    for service in SERVICES
    for process in ("api", "worker")
    if (name := f"{service}-{process}") not in KINDS
)


@pytest.mark.parametrize(
    "services",
    [
        pytest.param(KINDS, id="one of each kind"),
        pytest.param(OTHERS, id="all others", marks=pytest.mark.slow),
    ],
)
def test_rolling__restart_of_services__no_request_fails(
    stack: Stack, outside: Outside, record_property: Note, services: Sequence[str]
) -> None:
    """New containers of another version beside the old ones, one service at a time; each request is sent once."""
    stack.docker("tag", stack.settings.numerator_image, f"{stack.settings.numerator_image}-next")
    before = {service: set(stack.containers(service)) for service in services}
    with under_load(outside) as load:
        for service in services:
            stack.roll(service, image=f"{stack.settings.numerator_image}-next")

    record_property(
        f"2. Rolling restart of {', '.join(services)}",
        f"{len(services)} services; {load.done} requests, {len(load.failures)} failed; {len(load.texts)} publications",
    )
    assert load.failures == []
    assert load.done > 100
    for service, old in before.items():
        new = stack.containers(service)
        assert len(new) == len(old)
        assert not old & set(new)
        assert {stack.inspect(each)["Config"]["Image"] for each in new} == {
            f"{stack.settings.numerator_image}-next"
        }
    eventually(lambda: outside.missing(load.texts) == set() or None, what="all posts", seconds=120)
    assert max(times for (_, text), times in outside.published().items() if text.startswith("Load ")) == 1
