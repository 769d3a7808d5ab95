"""
Exemplars on `/metrics`: in each bucket of a histogram the trace of the last call that fell into it.

OpenTelemetry's exporter for Prometheus leaves them out; this adds them to what it says. They are written in the
OpenMetrics format only, which Prometheus asks for.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import Exemplar as Measurement
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, MetricsData
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

_Series = tuple[str, frozenset[tuple[str, str]], float]


class ExemplaryReader(PrometheusMetricReader):
    """`PrometheusMetricReader`, with exemplars. Keeps the last one of each bucket until the next."""

    def __init__(self, registry: CollectorRegistry) -> None:
        plain = CollectorRegistry()
        super().__init__(registry=plain, scope_info_enabled=False)
        self._exemplars: dict[_Series, Exemplar] = {}
        registry.register(_Collector(plain, self._exemplars))

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        for resource in metrics_data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if isinstance(metric.data, Histogram):
                        for point in metric.data.data_points:
                            self._remember(_plain(metric.name), point)
        super()._receive_metrics(metrics_data, timeout_millis, **kwargs)

    def _remember(self, name: str, point: HistogramDataPoint) -> None:
        bounds = [*point.explicit_bounds, float("inf")]
        labels = _identity({_plain(key): str(value) for key, value in (point.attributes or {}).items()})
        for each in point.exemplars:
            series = (name, labels, float(bounds[bisect_left(point.explicit_bounds, each.value)]))
            self._exemplars[series] = _exemplar(each)


class _Collector(Collector):
    def __init__(self, plain: CollectorRegistry, exemplars: Mapping[_Series, Exemplar]) -> None:
        self._plain = plain
        self._exemplars = exemplars

    def collect(self) -> Iterable[Metric]:
        for family in self._plain.collect():
            if family.type == "histogram":
                name = family.name.removesuffix(f"_{family.unit}")
                family.samples = [self._with_exemplar(name, sample) for sample in family.samples]
            yield family

    def _with_exemplar(self, name: str, sample: Sample) -> Sample:
        if "le" not in sample.labels:
            return sample
        labels = {key: value for key, value in sample.labels.items() if key != "le"}
        series = (name, _identity(labels), float(sample.labels["le"]))
        return sample._replace(exemplar=self._exemplars.get(series))


def _exemplar(measurement: Measurement) -> Exemplar:
    labels = {
        "trace_id": f"{measurement.trace_id or 0:032x}",
        "span_id": f"{measurement.span_id or 0:016x}",
    }
    return Exemplar(labels, float(measurement.value), measurement.time_unix_nano / 1e9)


def _identity(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """The labels that say something: Prometheus takes an empty one for a missing one."""
    return frozenset((key, value) for key, value in labels.items() if value)


def _plain(name: str) -> str:
    """One of our names, which consist of words and dots, as Prometheus has it."""
    return name.replace(".", "_")
