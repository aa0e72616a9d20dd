"""Webhooks: signed, repeated with bounds, and never to an address inside the own network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from serve_app.errors import ConfigurationError, InvalidRequest
from serve_app.jobs.webhooks import Webhooks, signature
from serve_app.settings import JobsSettings
from tests.unit.jobs.conftest import MakeRunner, ended, order, receiver, until

SECRET = "a secret of at least 16 bytes"
PUBLIC = "93.184.215.14"


class Resolver:
    """Answers with prepared addresses, the last of them again and again; remembers what it was asked."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def webhooks(
    resolver: Resolver,
    *allowed: str,
    attempts: int = 4,
    secret: str | None = SECRET,
    tls: ssl.SSLContext | None = None,
) -> Webhooks:
    settings = JobsSettings(
        webhook_secret=None if secret is None else SecretStr(secret),
        webhook_allowed_hosts=list(allowed),
        webhook_attempts=attempts,
    )
    return Webhooks(settings, resolver=resolver, wait_s=0.01, tls=tls)


async def test_it_goes_to_the_address_that_was_checked_with_a_signature() -> None:
    async with receiver() as taken:
        resolver = Resolver(["127.0.0.1"])
        sender = webhooks(resolver, "hooks.test")  # a name that the system does not know
        assert await sender.deliver(f"http://Hooks.test:{taken.port}/a?b=c", "job-1", b'{"x": 1}')
    head, body = taken.received[0]
    assert head.startswith("post /a?b=c http/1.1\r\n")
    assert taken.header("host") == f"hooks.test:{taken.port}"
    assert taken.header("content-type") == "application/json"
    assert taken.header("webhook-id") == "job-1"
    timestamp = taken.header("webhook-timestamp")
    assert abs(int(timestamp) - time.time()) < 60
    digest = hmac.new(SECRET.encode(), f"job-1.{timestamp}.".encode() + body, hashlib.sha256).digest()
    assert taken.header("webhook-signature") == ("v1," + base64.b64encode(digest).decode()).lower()


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks specification's own libraries.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body) == expected


async def test_it_is_repeated_while_that_may_help() -> None:
    async with receiver() as taken:
        taken.answers = [b"500 Oops", b"429 Slow", b"522 Connection timed out", b"200 OK"]
        sender = webhooks(Resolver(OSError("no such host"), ["127.0.0.1"]), "hooks.test", attempts=5)
        assert await sender.deliver(f"http://hooks.test:{taken.port}/", "job-1", b"{}")
    assert len(taken.received) == 4
    assert {taken.header("webhook-id", number) for number in range(4)} == {"job-1"}


async def test_it_is_given_up_after_its_attempts() -> None:
    async with receiver() as taken:
        taken.answers = [b"503 Away"] * 9
        sender = webhooks(Resolver(["127.0.0.1"]), "hooks.test", attempts=3)
        assert not await sender.deliver(f"http://hooks.test:{taken.port}/", "job-1", b"{}")
    assert len(taken.received) == 3


@pytest.mark.parametrize("status", [b"404 Not Found", b"302 Found\r\nLocation: http://127.0.0.1:1/"])
async def test_an_answer_that_will_not_change_ends_it(status: bytes) -> None:
    async with receiver() as taken:
        taken.answers = [status]
        sender = webhooks(Resolver(["127.0.0.1"]), "hooks.test")
        assert not await sender.deliver(f"http://hooks.test:{taken.port}/", "job-1", b"{}")
    assert len(taken.received) == 1


async def test_a_name_that_changes_its_address_after_the_check_leads_nowhere() -> None:
    async with receiver() as taken:
        sender = webhooks(Resolver([PUBLIC], ["127.0.0.1"]))
        url = f"https://rebinding.test:{taken.port}/"
        await sender.check(url)
        assert not await sender.deliver(url, "job-1", b"{}")
    assert taken.received == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/", "https://"),
        ("ftp://example.com/", "https://"),
        ("example.com/hook", "https://"),
        ("https://", "https://"),
        ("https:///path", "https://"),
        ("https://user:secret@example.com/", "password"),
        ("https://exa mple.com/", "url"),
        ("https://[::1", "url"),
        ("https://example.com:99999/", "url"),
        ("https://example.com:0/", "url"),
    ],
)
async def test_addresses_that_are_none(url: str, reason: str) -> None:
    resolver = Resolver([PUBLIC])
    with pytest.raises(InvalidRequest) as refusal:
        await webhooks(resolver).check(url)
    assert refusal.value.field == "webhook_url"
    assert reason in refusal.value.message
    assert resolver.asked == []


@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["fe80::1%eth0"], ["::ffff:127.0.0.1"]]
)
async def test_hosts_inside_the_own_network_are_refused(answer: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="public internet"):
        await webhooks(Resolver(answer)).check("https://inner.test/")


@pytest.mark.parametrize("answer", [OSError("no such host"), []])
async def test_hosts_without_an_address_are_refused(answer: OSError | list[str]) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere\.test"):
        await webhooks(Resolver(answer)).check("https://nowhere.test/")


async def test_allowed_hosts_and_public_ones_pass() -> None:
    resolver = Resolver(["10.0.0.1"], [PUBLIC], [PUBLIC])
    sender = webhooks(resolver, "Inner.test")
    await sender.check("http://inner.test/")
    await sender.check("https://example.com/hook")
    await sender.check("https://bücher.example:8443/")
    assert resolver.asked == [("inner.test", 80), ("example.com", 443), ("xn--bcher-kva.example", 8443)]


async def test_without_a_secret_there_are_no_webhooks() -> None:
    with pytest.raises(InvalidRequest, match=r"jobs\.webhook_secret"):
        await webhooks(Resolver([PUBLIC]), secret=None).check("https://example.com/")


@pytest.mark.parametrize("secret", ["abc123", "whsec_###", "whsec_c2hvcnQ="])
def test_poor_secrets_are_refused_and_not_said(secret: str) -> None:
    with pytest.raises(ConfigurationError, match=r"jobs\.webhook_secret") as refusal:
        webhooks(Resolver([PUBLIC]), secret=secret)
    assert secret not in str(refusal.value)


def _certificate(folder: Path, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server named `host`, and for clients that trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{host}.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


async def test_the_certificate_must_be_that_of_the_name(tmp_path: Path) -> None:
    server, client = _certificate(tmp_path, "hooks.test")
    async with receiver(server) as taken:
        sender = webhooks(Resolver(["127.0.0.1"]), "hooks.test", "other.test", attempts=1, tls=client)
        assert await sender.deliver(f"https://hooks.test:{taken.port}/", "job-1", b"{}")
        assert not await sender.deliver(f"https://other.test:{taken.port}/", "job-2", b"{}")
    assert len(taken.received) == 1


async def test_a_finished_job_tells_its_webhook(make_runner: MakeRunner) -> None:
    async with receiver() as taken:
        taken.answers = [b"500 Oops"]
        sender = webhooks(Resolver(["127.0.0.1"]), "hooks.test")
        runner, _ = make_runner(webhooks=sender)
        wanted = order(
            webhook_url=f"http://hooks.test:{taken.port}/", base_url="https://pictures.example.com/serve"
        )
        job_id = (await runner.submit(wanted)).job.record.id
        view = await until(runner, job_id, lambda view: view.record.webhook == "delivered")
    assert view.progress.state.ended
    body = json.loads(taken.received[-1][1])
    assert (body["id"], body["state"], body["seed"]) == (job_id, "finished", 7)
    assert body["result"]["images"][0]["url"] == f"https://pictures.example.com/serve/images/{job_id}/0_0.png"
    assert "webhook" not in body


async def test_a_webhook_outlives_the_runner(make_runner: MakeRunner) -> None:
    async with receiver() as taken:
        url = f"http://hooks.test:{taken.port}/"
        away = Webhooks(
            JobsSettings(webhook_secret=SecretStr(SECRET), webhook_allowed_hosts=["hooks.test"]),
            resolver=Resolver(OSError("away")),
            wait_s=30.0,
        )
        away.check = _accept  # type: ignore[method-assign]
        first, _ = make_runner(webhooks=away)
        job_id = (await first.submit(order(webhook_url=url))).job.record.id
        await ended(first, job_id)
        await first.close()
        second, service = make_runner(webhooks=webhooks(Resolver(["127.0.0.1"]), "hooks.test"))
        second.start()
        await until(second, job_id, lambda view: view.record.webhook == "delivered")
        assert json.loads(taken.received[0][1])["state"] == "finished"
        assert service.drafts == []  # told, not drawn again


async def _accept(url: str) -> None:
    return None
