"""
What every command may be told, by options or by `NUMERATOR_*`: the command line's only reader of the environment.

typer reads the variables, not pydantic-settings: an option and its variable are declared once, and `--help` names both.
"""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_LOCAL_SECRETS = Path(__file__).parents[2] / ".local/run/secrets"
_ACCESS = "Where, and as whom"
_URL = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[^\s/:@\[\]]+)(:\d{1,5})?(/[^\s?#]*)?")


class Output(StrEnum):
    """In which form an answer is printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    The options of every command; each field's annotation is its option.

    Attributes:
        timeout: seconds.
        request_id: empty for one that is made up.
    """

    request_id: Annotated[
        str, typer.Option(help="A key of your own: a repeated request has one effect.", metavar="KEY")
    ] = ""
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", metavar="", help="Show what would happen, or what would be sent; change nothing."
        ),
    ] = False
    output: Annotated[Output, typer.Option("--output", "-o", help="For people, or the API's own JSON.")] = (
        Output.TABLE
    )
    url: Annotated[
        str,
        typer.Option(
            envvar="NUMERATOR_URL",
            metavar="URL",
            help="The gateway.",
            show_default="the local platform's",
            rich_help_panel=_ACCESS,
        ),
    ] = ""
    client: Annotated[
        str,
        typer.Option(
            "--as",
            envvar="NUMERATOR_CLIENT_ID",
            help="The operator, by client id.",
            metavar="CLIENT",
            rich_help_panel=_ACCESS,
        ),
    ] = "operator"
    secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="NUMERATOR_CLIENT_SECRET_FILE",
            metavar="PATH",
            help="Holds the client's secret, or secrets by client as JSON.",
            show_default="the local platform's",
            rich_help_panel=_ACCESS,
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="How long to wait for an answer.", rich_help_panel=_ACCESS
        ),
    ] = 10.0

    # Not to be typed: a secret in a command is in the shell's history and in the list of processes.
    secret: Annotated[str, typer.Option(envvar="NUMERATOR_CLIENT_SECRET", hidden=True)] = field(
        default="", repr=False
    )
    port_base: Annotated[int, typer.Option(envvar="NUMERATOR_PORT_BASE", hidden=True)] = 7400
    cache_home: Annotated[Path, typer.Option(envvar="XDG_CACHE_HOME", hidden=True)] = Path("~/.cache")

    @property
    def gateway_url(self) -> str:
        """Without a slash at the end. Raises typer.BadParameter when it is none."""
        url = self.url or f"http://127.0.0.1:{self.port_base}"
        if not _URL.fullmatch(url):
            raise typer.BadParameter(
                f"{url!r} is no gateway's address; write http(s)://host or http(s)://host:port"
            )
        return url.rstrip("/")

    @property
    def secret_source(self) -> str:
        """Where the secret is looked for, for messages."""
        return "NUMERATOR_CLIENT_SECRET" if self.secret else str(self._secret_path)

    def read_secret(self) -> str:
        """The client's secret. Raises typer.BadParameter when there is none."""
        if self.secret:
            return self.secret
        try:
            text = self._secret_path.read_text().strip()
            return str(json.loads(text)[self.client]) if text.startswith("{") else text
        except OSError as error:
            why = error.strerror
        except KeyError:
            why = "it holds those of others"
        except ValueError:
            why = "it is neither a secret nor JSON"
        raise typer.BadParameter(
            f"no secret for the client {self.client}: {self._secret_path}: {why}. Set NUMERATOR_CLIENT_SECRET_FILE or "
            "NUMERATOR_CLIENT_SECRET; for a platform of your own, make up makes them"
        )

    @property
    def _secret_path(self) -> Path:
        if self.secret_file:
            return self.secret_file.expanduser()
        return _LOCAL_SECRETS / ("operator-client-secret" if self.client == "operator" else "operators")


WRITING = frozenset({"request_id", "dry_run"})
"""The fields that are options of commands that write, and of no others."""
