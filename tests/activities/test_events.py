"""Delivery of events: at least once, signed, independent of each other, without leaking the secret."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from temporalio.testing import ActivityEnvironment

from activities import events as delivery
from activities.events import EventActivities
from parley.domain.events import WAITS
from parley.domain.housekeeping import DeliverInput, DeliverReport
from parley.settings import Settings
from parley.storage.tables import OutboxEvent
from tests.activities.receiver import Receiver
from tests.activities.test_secrets import everything_stored
from tests.parts import until
from tests.storage.ledger_fixture import LedgerFixture

KEY = b"a very distinctive key 4711"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
ONE_LOOK = DeliverInput(seconds=0)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


@pytest.fixture
def hooked(settings: Settings, receiver: Receiver) -> Settings:
    return settings.model_copy(update={"webhook_url": SecretStr(receiver.url), "webhook_secret": SecretStr(SECRET)})


async def deliver(books: LedgerFixture, settings: Settings, job: DeliverInput = ONE_LOOK) -> DeliverReport:
    return await ActivityEnvironment().run(EventActivities(books.database, settings).deliver, job)


async def written(books: LedgerFixture, count: int) -> None:
    async with books.database.transaction() as tx:
        tx.add_all([OutboxEvent(workspace_id="acme", kind="test", payload={"n": n}) for n in range(count)])


async def due_again(books: LedgerFixture) -> None:
    await books.run("UPDATE outbox SET next_at = now() WHERE next_at IS NOT NULL")


def numbers(receiver: Receiver) -> list[int]:
    return sorted(message.data["n"] for message in receiver.messages)


async def test_an_event_arrives_with_a_signature_that_verifies(
    books: LedgerFixture, hooked: Settings, receiver: Receiver
):
    attempt = await books.granted()
    await books.settle(attempt)
    assert await deliver(books, hooked) == DeliverReport(delivered=1)
    (message,) = receiver.messages
    signed = f"{message.headers['webhook-id']}.{message.headers['webhook-timestamp']}.".encode() + message.body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert message.headers["webhook-signature"] == f"v1,{expected}"
    assert message.headers["content-type"] == "application/json"
    body = json.loads(message.body)
    assert (body["type"], body["data"]["workspace_id"]) == ("ai_generation_completed", "acme")
    assert body["data"]["attempt_id"] == str(attempt)


async def test_a_delivered_event_is_not_sent_again(books: LedgerFixture, hooked: Settings, receiver: Receiver):
    await written(books, 3)
    await deliver(books, hooked)
    assert await deliver(books, hooked) == DeliverReport()
    assert numbers(receiver) == [0, 1, 2]


@pytest.mark.parametrize(("status", "problem"), [(500, "HTTP 500"), (410, "HTTP 410"), (0, "RemoteProtocolError")])
async def test_a_failed_delivery_is_retried_with_the_same_id(
    books: LedgerFixture, hooked: Settings, receiver: Receiver, status: int, problem: str
):
    await written(books, 1)
    receiver.answer = lambda _: status
    assert await deliver(books, hooked) == DeliverReport(failed=1)
    (event,) = await books.all(OutboxEvent)
    assert (event.problem, event.tries, event.delivered_at) == (problem, 1, None)
    assert await deliver(books, hooked) == DeliverReport(), "it waits for its turn"
    receiver.answer = lambda _: 200
    await due_again(books)
    assert await deliver(books, hooked) == DeliverReport(delivered=1)
    first, second = receiver.messages
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    (event,) = await books.all(OutboxEvent)
    assert (event.problem, event.tries) == ("", 2)


async def test_an_unreachable_receiver_is_a_failed_attempt(books: LedgerFixture, hooked: Settings, receiver: Receiver):
    await written(books, 1)
    await receiver.__aexit__(None, None, None)
    assert await deliver(books, hooked) == DeliverReport(failed=1)
    (event,) = await books.all(OutboxEvent)
    assert event.problem == "ConnectError"


async def test_a_receiver_without_a_reply_times_out(
    books: LedgerFixture, hooked: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(delivery, "ATTEMPT_SECONDS", 0.3)
    await written(books, 2)
    receiver.open.clear()
    assert await deliver(books, hooked) == DeliverReport(failed=2)
    assert len(receiver.messages) == 2
    assert {event.problem for event in await books.all(OutboxEvent)} == {"no answer within 0 s"}


async def test_a_redirect_is_not_followed(books: LedgerFixture, hooked: Settings, receiver: Receiver):
    await written(books, 1)
    receiver.location, receiver.answer = "/elsewhere", lambda _: 307
    assert await deliver(books, hooked) == DeliverReport(failed=1)
    assert [message.path.partition("?")[0] for message in receiver.messages] == ["/hook"]


async def test_a_refused_event_delays_no_other_and_ends_after_the_last_attempt(
    books: LedgerFixture, hooked: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture
):
    await written(books, 5)
    receiver.answer = lambda message: 400 if message.data["n"] == 0 else 200
    job = DeliverInput(seconds=0, batch=2)
    reports = []
    for _ in range(20):
        reports.append(await deliver(books, hooked, job))
        await due_again(books)
    assert sum(report.delivered for report in reports) == 4
    assert sum(report.failed for report in reports) == len(WAITS)
    assert sum(report.abandoned for report in reports) == 1
    (event,) = await books.all(OutboxEvent, delivered_at=None)
    assert (event.next_at, event.tries) == (None, len(WAITS) + 1)
    assert "could not be delivered in 11 attempts: HTTP 400" in caplog.text


async def test_two_workers_deliver_each_event_once(books: LedgerFixture, hooked: Settings, receiver: Receiver):
    await written(books, 30)
    job = DeliverInput(seconds=0, batch=10)
    reports = await asyncio.gather(*(deliver(books, hooked, job) for _ in range(6)))
    while sum(report.delivered for report in reports) < 30:
        reports.append(await deliver(books, hooked, job))
    assert numbers(receiver) == list(range(30))


async def test_a_delivery_that_was_not_recorded_is_repeated(
    books: LedgerFixture, hooked: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(delivery, "HOLD_SECONDS", 0.0)
    await written(books, 1)
    receiver.open.clear()
    dying = asyncio.create_task(deliver(books, hooked))

    async def arrived() -> bool:
        return len(receiver.messages) == 1

    await until(arrived)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    receiver.open.set()
    assert await deliver(books, hooked) == DeliverReport(delivered=1)
    assert len({message.headers["webhook-id"] for message in receiver.messages}) == 1


async def test_polling_ends_when_the_worker_drains(
    books: LedgerFixture, hooked: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.05)
    environment = ActivityEnvironment()
    looking = asyncio.create_task(
        environment.run(EventActivities(books.database, hooked).deliver, DeliverInput(seconds=60))
    )
    for count in (1, 2):
        await written(books, 1)

        async def arrived(count: int = count) -> bool:
            return len(receiver.messages) == count

        await until(arrived)
    environment.worker_shutdown()
    async with asyncio.timeout(20):
        assert await looking == DeliverReport(delivered=2)


async def test_a_backlog_is_delivered_without_pauses(
    books: LedgerFixture, hooked: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """Without a wait in between: with one it would not be done before the environment's shutdown."""
    monkeypatch.setattr(delivery, "POLL_SECONDS", 30.0)
    await written(books, 45)
    environment = ActivityEnvironment()
    work = environment.run(EventActivities(books.database, hooked).deliver, DeliverInput(seconds=90, batch=10))
    looking = asyncio.create_task(work)

    async def arrived() -> bool:
        return len(receiver.messages) == 45

    await until(arrived)
    environment.worker_shutdown()
    assert await looking == DeliverReport(delivered=45)


async def test_nothing_is_sent_without_a_url(books: LedgerFixture, settings: Settings):
    await written(books, 1)
    assert await deliver(books, settings, DeliverInput(seconds=60)) == DeliverReport()
    (event,) = await books.all(OutboxEvent)
    assert event.tries == 0


@pytest.mark.parametrize("status", [200, 500, 0])
async def test_secret_and_url_are_not_logged_or_stored(
    books: LedgerFixture, hooked: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int
):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # as a worker does
    await written(books, 1)
    receiver.answer = lambda _: status
    report = await deliver(books, hooked)
    assert receiver.messages
    for place in (await everything_stored(books), caplog.text, repr(hooked), repr(report)):
        assert SECRET not in place
        assert "a-token-in-the-address" not in place


@pytest.mark.parametrize(
    "mistake",
    [
        {"webhook_url": "https://hooks.example.org/token"},
        {"webhook_url": "hooks.example.org/token", "webhook_secret": "secret"},
        {"webhook_url": "https://hooks.example.org:99999/token", "webhook_secret": "secret"},
        {"webhook_url": "https://hooks.example.org/token", "webhook_secret": "whsec_not a secret"},
    ],
)
def test_an_invalid_webhook_is_refused_without_quoting_it(mistake: dict[str, Any]):
    with pytest.raises(ValidationError, match="PARLEY_WEBHOOK_") as caught:
        Settings(**mistake)
    assert "token" not in str(caught.value)
    assert "not a secret" not in str(caught.value)
