from collections import Counter

from tests.chaos.ledger import Ledger


def test_ledger__tells_apart() -> None:
    """Lost, seen again, seen unasked, and seen without an answer are four things; the last is allowed."""
    ledger = Ledger({"a", "b", "c", "d"}, {"a", "b", "c"}, Counter({"a": 1, "b": 3, "d": 1, "x": 1}))
    assert (ledger.lost, ledger.duplicated, ledger.unexpected, ledger.recovered) == ({"c"}, 2, {"x"}, {"d"})
    assert not ledger.flawless
    assert Ledger({"a", "d"}, {"a"}, Counter("ad")).flawless
