"""The collector's configuration hangs together: no collector can be run here that would say so."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[1]
CONFIG = yaml.safe_load((FOLDER / "collector.yaml").read_text())


def test_pipelines__name_what_is_configured() -> None:
    """Every part that a pipeline names is configured, every part that is configured is used."""
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in CONFIG["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            used[kind] |= set(names)

    assert used == {kind: set(CONFIG[kind]) for kind in used}
    assert set(CONFIG["service"]["extensions"]) == set(CONFIG["extensions"])


def test_pipelines__refuse_before_memory_runs_out() -> None:
    """The limiter is the first processor of each pipeline; behind it nothing could be refused any more."""
    pipelines = CONFIG["service"]["pipelines"]

    assert set(pipelines) == {"traces", "logs", "metrics"}
    assert {pipeline["processors"][0] for pipeline in pipelines.values()} == {"memory_limiter"}


def test_collector__listens_where_processes_export_to() -> None:
    """The port is that of OTLP over HTTP; all that differs between installations is in the environment."""
    assert CONFIG["receivers"]["otlp"]["protocols"] == {
        "http": {"endpoint": "0.0.0.0:4318", "max_request_body_size": 16 * 2**20}
    }
    exporters = [value for name, value in CONFIG["exporters"].items() if name.startswith("otlphttp/")]
    assert all(each["endpoint"].startswith("${env:OTLP_") for each in exporters)


def test_compose__names_no_image_that_we_cannot_run() -> None:
    """The override has the image from the environment, and gives each variable that the configuration wants."""
    service = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"]["otlp"]
    wanted = {part.split("}")[0] for part in (FOLDER / "collector.yaml").read_text().split("${env:")[1:]}

    assert service["image"].startswith("${COLLECTOR_IMAGE:?")
    assert set(service["environment"]) == wanted
