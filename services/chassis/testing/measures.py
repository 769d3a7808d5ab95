"""What this test process has measured, as Prometheus would see it."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families

from services.chassis.testing.probing import probe
from services.chassis.testing.rpc import telemetry


def measured(sample: str, **labels: str) -> float:
    """The sum of the series of a sample, as `numerator_accounts_logins_total`, that have these labels; 0 for none."""
    return measured_at(telemetry().metrics_port, sample, **labels)


def measured_at(port: int, sample: str, **labels: str) -> float:
    """`measured`, in the process with this metrics port."""
    # Of the thousands of lines of a long run, only those that matter are parsed.
    lines = [line for line in probe(port, "/metrics").text.splitlines() if line.startswith(sample)]
    return sum(
        each.value
        for family in text_string_to_metric_families("\n".join([*lines, ""]))
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    )


@contextmanager
def counted(expected: float, sample: str, **labels: str) -> Iterator[None]:
    """The block must make the sample grow by exactly this."""
    before = measured(sample, **labels)
    yield
    grown = measured(sample, **labels) - before
    assert grown == expected, f"{sample}{labels} grew by {grown}, not by {expected}"
