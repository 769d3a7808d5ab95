"""Who asks, where, and what is said when nobody answers."""

import json
import socket
import ssl
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from numerator.rollout.v1 import rollout_pb2, serving_pb2

from gateway.cli.tests import made
from services.chassis.errors import Kind, ServiceError


@pytest.fixture
def stranger():
    """Serves what the test says on a free port, with any path: gives a function from (status, body) to the URL."""
    servers = []

    def serve(status: int, body: bytes, certificate: Path | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815 -- the library's names

            def log_message(self, *arguments):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_token__is_kept_for_its_owner_alone(numerator, platform, tmp_path):
    """Runs share a token while it is good, and nobody else can read it."""
    platform.rollouts.answers["ListReplicas"] = serving_pb2.Convergence()

    for _ in range(3):
        assert numerator("replicas").exit_code == 0
    assert numerator("replicas", "--as", "reviewer").exit_code == 0

    assert platform.accounts.logins == ["operator", "reviewer"]
    kept = [*(tmp_path / "cache/numerator").iterdir()]
    assert len(kept) == 2
    assert {stat.S_IMODE(each.stat().st_mode) for each in kept} == {0o600}
    assert stat.S_IMODE(kept[0].parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "content",
    [
        '{"token": "of another platform", "expires": 4e9}',
        '{"token": "too old", "expires": 1}',
        "{",
        "[]",
        '{"token": null, "expires": "x"}',
    ],
)
def test_token__that_is_no_good_is_replaced(numerator, platform, tmp_path, content):
    """Tokens of a platform that was reset, old ones and damaged files cost a login, and nothing else."""
    platform.rollouts.answers["ListReplicas"] = serving_pb2.Convergence()
    numerator("replicas")
    (kept,) = (tmp_path / "cache/numerator").iterdir()
    kept.write_text(content)

    result = numerator("replicas")

    assert result.exit_code == 0
    assert platform.accounts.logins == ["operator", "operator"]
    assert json.loads(kept.read_text())["expires"] > time.time()


def test_token__need_not_be_kept(numerator, platform, tmp_path):
    """Where nothing can be written, commands work all the same."""
    (tmp_path / "cache").write_text("no folder")
    platform.rollouts.answers["ListReplicas"] = serving_pb2.Convergence()

    assert numerator("replicas").exit_code == 0


def test_secret__may_come_by_the_environment(numerator, platform):
    """NUMERATOR_CLIENT_SECRET goes before files; a wrong one is refused, and the message says which it was."""
    platform.rollouts.answers["ListReplicas"] = serving_pb2.Convergence()

    good = numerator("replicas", "--as", "reviewer", NUMERATOR_CLIENT_SECRET="s3cret of the reviewer")
    bad = numerator("replicas", "--as", "operator", NUMERATOR_CLIENT_SECRET="guessed")

    assert good.exit_code == 0
    assert bad.exit_code == 1
    assert bad.stderr == (
        "error: unknown client or wrong secret (INVALID_CLIENT)\n"
        "check: the client operator, and NUMERATOR_CLIENT_SECRET\n"
    )


def test_secret__may_be_a_file_of_its_own(numerator, platform, tmp_path):
    """A file may hold the secret alone, as mounted secrets do."""
    (tmp_path / "mounted").write_text("s3cret of the reviewer\n")
    platform.rollouts.answers["ListReplicas"] = serving_pb2.Convergence()

    assert (
        numerator("replicas", "--as", "reviewer", "--secret-file", str(tmp_path / "mounted")).exit_code == 0
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b'{"reviewer": "s"}', "it holds those of others"),
        (b"{", "it is neither a secret nor JSON"),
        (b"\xff", "it is neither a secret nor JSON"),
    ],
)
def test_secret__that_is_not_there_is_a_wrong_call(numerator, platform, tmp_path, content, why):
    """The message names the client, the file and what is wrong with it, and no secret."""
    file = tmp_path / "none"
    if content is not None:
        file.write_bytes(content)

    result = numerator("replicas", "--secret-file", str(file), COLUMNS="500")

    assert result.exit_code == 2
    assert f"no secret for the client operator: {file}: {why}." in result.stderr
    assert platform.accounts.logins == []


def test_url__defaults_to_the_local_platform(numerator):
    """Nobody said where: then it is this machine, at the platform's port."""
    result = numerator("replicas", NUMERATOR_URL="", NUMERATOR_PORT_BASE="1")

    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == (
        "error: http://127.0.0.1:1: nobody listens there\n"
        "check: does the platform run (make status), and is this its address (NUMERATOR_URL)?\n"
    )


@pytest.mark.parametrize("url", ["localhost:7400", "ftp://x", "http://", "http://a b", "http://u:p@host"])
def test_url__that_is_none_is_a_wrong_call(numerator, url):
    """Also one with credentials in it, which would end up in messages."""
    result = numerator("replicas", "--url", url)

    assert result.exit_code == 2
    assert "is no gateway's address" in result.stderr


def test_unreachable__by_name(numerator):
    """A host that does not exist."""
    result = numerator("replicas", "--url", "http://gateway.invalid")

    assert result.exit_code == 3
    assert result.stderr.startswith("error: http://gateway.invalid: the name of this host is not known\n")


def test_unreachable__by_silence(numerator):
    """What accepts and says nothing is waited for as long as was said, and no longer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = numerator("replicas", "--url", url, "--timeout", "0.3")

    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {url}: no answer within 0.3 s\n")


def test_unreachable__by_another_language(numerator, platform):
    """TLS is not spoken there."""
    result = numerator("replicas", "--url", platform.url.replace("http://", "https://"))

    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {platform.url.replace('http', 'https')}: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>welcome</html>"),
        (502, b"<html>bad gateway</html>"),
        (200, b"[]"),
        (200, b"{}"),
        (404, b""),
    ],
)
def test_stranger__is_told_apart(numerator, stranger, status, body):
    """What answers but is no gateway of ours is said to be none."""
    url = stranger(status, body)

    result = numerator("replicas", "--url", url)

    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {url}: no gateway of Numerator answers there (HTTP {status})\n")


def test_stranger__that_no_authority_vouches_for(numerator, stranger, tmp_path):
    """A certificate of its own making is not believed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "certificate").write_bytes(pem)
    url = stranger(200, b"{}", tmp_path / "certificate")

    result = numerator("replicas", "--url", url)

    assert result.exit_code == 3
    assert result.stderr.startswith(
        f"error: {url}: its certificate is not trusted: self-signed certificate\n"
    )


def test_version__of_the_platform_may_be_another(numerator, platform, stranger):
    """An answer that lacks what we print is no traceback; as JSON it is printed as it came."""
    url = stranger(200, b'{"access_token": "t", "expires_in": 600}')

    shown = numerator("audit", "verify", "--url", url, "-o", "table")

    assert shown.exit_code == 3
    assert shown.stderr.startswith(f"error: {url}: the answer has no 'mistakes': another version?")


def test_unwell__ends_with_3_and_says_how_to_repeat(numerator, platform):
    """A service that is away is no refusal. A write may have had its effect: its key makes repeating safe."""
    platform.rollouts.answers["PauseRollout"] = ServiceError(
        Kind.DEADLINE_EXCEEDED, "DATABASE_TIMEOUT", "the database did not answer in time"
    )

    result = numerator("rollout", "pause", "enterprise-edition", "-r", "why")

    assert result.exit_code == 3
    lines = result.stderr.splitlines()
    assert lines[0] == "error: the database did not answer in time (DATABASE_TIMEOUT)"
    (request,) = platform.rollouts.asked("PauseRollout")
    assert lines[-1] == f"it may have had its effect; repeat it safely with --request-id {request.request_id}"


@pytest.mark.parametrize(
    "body", [b'{"reason": "UNAVAILABLE", "detail": "away"}', b"<html>bad gateway</html>"]
)
def test_unwell__at_the_login_has_no_effect(numerator, stranger, body):
    """A write that was never sent need not be repeated under its key."""
    result = numerator("rollout", "pause", "x", "-r", "why", "--url", stranger(503, body))

    assert result.exit_code == 3
    assert "--request-id" not in result.stderr


def test_unwell__of_a_read_repeats_nothing(numerator, platform):
    """What changes nothing needs no key."""
    platform.rollouts.answers["ListReplicas"] = ServiceError(
        Kind.DEADLINE_EXCEEDED, "DATABASE_TIMEOUT", "too slow"
    )

    result = numerator("replicas")

    assert result.exit_code == 3
    assert "--request-id" not in result.stderr


def test_timeout__of_a_write_says_how_to_repeat(numerator, platform):
    """A write whose answer did not come in time."""
    asked = threading.Event()

    def slow(request):
        asked.wait(5)
        return made.rollout()

    platform.rollouts.answers["KillRollout"] = slow
    platform.rollouts.answers["ListRollouts"] = rollout_pb2.ListRolloutsResponse()
    numerator("rollout", "list")  # the login is not what is slow

    result = numerator(
        "rollout", "kill", "enterprise-edition", "-r", "why", "--timeout", "0.5", "--request-id", "k-1"
    )
    asked.set()

    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == f"error: {platform.url}: no answer within 0.5 s"
    assert result.stderr.splitlines()[-1].endswith("repeat it safely with --request-id k-1")
