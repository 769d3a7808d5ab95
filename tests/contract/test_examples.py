"""What docs/examples holds is right."""

from pathlib import Path

import pytest

from services.rollout.plan import parse

EXAMPLES = sorted((Path(__file__).parents[2] / "docs/examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example__is_a_plan_without_mistakes(example):
    """Each plan parses, and is of the rollout that its file is named after."""
    assert parse(example.read_text()).rollout == example.stem
