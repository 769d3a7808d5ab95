"""Rules, alerts and targets hang together with what they name; whether they are right is asked of promtool (tests/compose)."""

import re
from typing import Any

import pytest
import yaml

from deploy.local.programs import SERVICES
from deploy.prometheus.tests.names import ROOT, RULES, documented, metrics_in, rules, unknown

ALERTS = [rule for rule in rules() if "alert" in rule]
OBJECTIVES = {rule["labels"]["slo"] for rule in rules() if rule.get("record") == "slo:objective"}
RUNBOOK = ROOT / "docs" / "runbook.md"


def promtool_tests(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load((RULES / "tests" / file).read_text())["tests"])


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        (
            'sum by (service) (rate(a_total{x=~"b{2}"}[5m])) / on (slo) group_left () c:d:5m > 3',
            {"a_total", "c:d:5m"},
        ),
        ('label_replace(x offset 5m, "a", "$1", "b", "(.*)") unless y or vector(0)', {"x", "y"}),
        ("rate(z[$__rate_interval]) > bool 1e3", {"z"}),
    ],
)
def test_metrics_in__finds_names_and_nothing_else(expr: str, names: set[str]) -> None:
    """Labels, texts, functions, keywords and numbers are no metrics."""
    assert metrics_in(expr) == names


def test_documented__is_read_from_the_tables() -> None:
    """Histograms have their three series, counters end as they do in Prometheus."""
    assert {"numerator_messaging_retries_total", "numerator_outbox_lag_seconds"} < documented()
    assert {
        f"http_server_request_duration_seconds_{part}" for part in ("bucket", "sum", "count")
    } < documented()
    assert "http_server_request_duration_seconds" not in documented()


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule.get("record") or rule["alert"])
def test_rules__ask_for_what_there_is(rule: dict[str, Any]) -> None:
    """Every metric of a rule is documented, recorded by a rule, or another program's."""
    assert not unknown(rule["expr"])


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts__say_how_urgent_they_are_and_what_to_do(alert: dict[str, Any]) -> None:
    """Each has a severity that somebody acts on, a summary, and a chapter of the runbook."""
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"]["summary"]
    chapter = "{{ $labels.slo }}" if alert["alert"].startswith("ErrorBudget") else alert["alert"].lower()
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{chapter}"


@pytest.mark.parametrize("name", sorted(OBJECTIVES | {a["alert"] for a in ALERTS if "slo:" not in a["expr"]}))
def test_runbook__has_a_chapter(name: str) -> None:
    """Whoever is woken finds what to do."""
    headings = re.findall(r"^#+ `?([\w-]+)`?$", RUNBOOK.read_text(), re.MULTILINE)

    assert name in headings


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts__are_tested_in_both_directions(alert: dict[str, Any]) -> None:
    """Promtool has a moment for each alert at which it must fire, and one at which it must not."""
    moments = [
        bool(moment.get("exp_alerts"))
        for file in ("alerts.yml", "burn.yml")
        for test in promtool_tests(file)
        for moment in test.get("alert_rule_test", ())
        if moment["alertname"] == alert["alert"]
    ]

    assert set(moments) == {True, False}


@pytest.mark.parametrize("slo", sorted(OBJECTIVES))
def test_objectives__are_whole_and_tested(slo: str) -> None:
    """Each has its total and its bad events; its test, from the metrics on, is silent, fires, and is silent again."""
    recorded = [
        rule["record"] for rule in rules() if rule.get("labels", {}).get("slo") == slo and "record" in rule
    ]
    assert sorted(recorded) == ["slo:bad:rate5m", "slo:objective", "slo:total:rate5m"]

    for test in (test for test in promtool_tests("slos.yml") if test["name"] == slo):
        moments = [moment.get("exp_samples", []) for moment in test["promql_expr_test"]]
        assert [len(samples) for samples in moments] == [0, 1, 0]
        assert f'slo="{slo}"' in moments[1][0]["labels"]
    assert slo in {test["name"] for test in promtool_tests("slos.yml")}


def test_targets__are_all_processes() -> None:
    """Every service's processes are scraped; their names become the labels that rules and boards use."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "numerator")
    (found,) = job["dns_sd_configs"]

    expected = {f"{service}-{process}" for service in SERVICES for process in ("api", "worker")}
    assert set(found["names"]) == expected | {"gateway", "publishing-sender", "accounts-webhooks"}
    assert len(found["names"]) == len(set(found["names"]))
    labels = {name: _labels(job["relabel_configs"], name) for name in found["names"]}
    assert labels["gateway"] == {"service": "gateway", "process": "http"}
    assert labels["publishing-sender"] == {"service": "publishing", "process": "sender"}
    assert labels["rollout-api"] == {"service": "rollout", "process": "api"}


def test_targets__are_what_compose_runs() -> None:
    """Each name that is scraped is a service of the stack."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    names = {
        name
        for job in config["scrape_configs"]
        for sd in job.get("dns_sd_configs", ())
        for name in sd["names"]
    }
    names |= {
        target.partition(":")[0]
        for job in config["scrape_configs"]
        for static in job.get("static_configs", ())
        for target in static["targets"]
    }

    assert names - {"localhost"} <= set(compose)


def _labels(relabelling: list[dict[str, Any]], name: str) -> dict[str, str]:
    """What Prometheus makes of a name: the rules of its `relabel_configs` that we use."""
    labels = {}
    for rule in relabelling:
        if match := re.fullmatch(rule["regex"], name):
            labels[rule["target_label"]] = match.expand(rule.get("replacement", "$1").replace("$", "\\"))
    return labels
