"""Answers of the services, as they might be at night."""

from datetime import UTC, datetime, timedelta

from numerator.rollout.v1 import admissions_pb2, rollout_pb2, serving_pb2

EDITION = "rollouts/enterprise-edition"


def ago(**span: float) -> datetime:
    """So long ago, and a little more, so that the age does not change while the test runs."""
    return datetime.now(UTC) - timedelta(**span) - timedelta(seconds=15)


def ahead(**span: float) -> datetime:
    """So far ahead, and a little more."""
    return datetime.now(UTC) + timedelta(**span) + timedelta(seconds=45)


def rollout(**more) -> rollout_pb2.Rollout:
    """A rollout in the second of its stages."""
    stages = [
        rollout_pb2.Stage(id="2-invited", audience="waitlist invited", basis_points=10000, quota=25),
        rollout_pb2.Stage(
            id="3-early",
            audience="everyone",
            basis_points=500,
            quota=60,
            limits={"requests_per_minute": 600, "bound_accounts": 20},
        ),
    ]
    fields = {
        "name": EDITION,
        "flag": "enterprise-beta",
        "state": "RUNNING",
        "stage": "3-early",
        "stages": stages,
        "basis_points": 500,
        "admitted_count": 41,
        "waiting_count": 12,
        "plan_version": 3,
        "author": "clients/operator",
        "stage_time": ago(hours=2, minutes=5),
        "update_time": ago(minutes=3),
    }
    return rollout_pb2.Rollout(**{**fields, **more})


def replica(name: str, **more) -> serving_pb2.Replica:
    fields = {
        "snapshot_version": 812,
        "admissions_version": 4711,
        "snapshot_lag_ms": 9,
        "admissions_lag_ms": 4,
    }
    return serving_pb2.Replica(
        replica=name, report_time=ago(minutes=1), **{"converged": True, **fields, **more}
    )


def convergence(*behind: str) -> serving_pb2.Convergence:
    """Three gateways, of which those named are behind."""
    found = [
        replica(name, **({"converged": False, "snapshot_version": 811} if name in behind else {}))
        for name in ("gateway-1", "gateway-2", "gateway-3")
    ]
    return serving_pb2.Convergence(
        replicas=found,
        snapshot_version=812,
        admissions_version=4711,
        converged_count=3 - len(behind),
        slowest_ms=9,
    )


def status(**more) -> rollout_pb2.RolloutStatus:
    """The status of `rollout()`."""
    verdicts = [
        rollout_pb2.Verdict(
            metric="publish.error_rate", kind="GUARDRAIL", outcome="PASS", treatment=0.0042, control=0.0031,
            treated_count=41, control_count=38, reason="at least 0.4 points better or worse",
        ),
        rollout_pb2.Verdict(
            metric="binding.success_rate", kind="SIGNAL", outcome="NO_DATA", dry_run=True, reason="binding.success_rate: nobody bound an account",
        ),
    ]  # fmt: skip
    fields = {
        "rollout": rollout(),
        "gates": [
            rollout_pb2.Gate(kind="TIME", detail="2h of 72h", meet_time=ahead(days=2, hours=21)),
            rollout_pb2.Gate(kind="EXPOSURES", met=True, detail="31 of 20"),
        ],
        "analysis": rollout_pb2.Analysis(
            time=ago(minutes=1),
            stage="3-early",
            outcome="PASS",
            action="NONE",
            reason="nothing got worse",
            verdicts=verdicts,
        ),
        "convergence": convergence(),
        "next_step": "advances by itself after time",
    }
    return rollout_pb2.RolloutStatus(**{**fields, **more})


def admission(enterprise: str, state: str = "ACTIVE", **more) -> admissions_pb2.Admission:
    """The record of an enterprise."""
    fields = {"stage": "3-early", "source": "BUCKET", "admit_time": ago(days=2)} if state == "ACTIVE" else {}
    return admissions_pb2.Admission(
        enterprise=f"enterprises/{enterprise}", state=state, bucket=312, **{**fields, **more}
    )
