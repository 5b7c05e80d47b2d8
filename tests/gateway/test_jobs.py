"""Jobs over HTTP: start, status, progress, result, events, cancel, list."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import websockets
from temporalio.client import Client as TemporalClient

from gateway.uploads import safe_name
from parley import Backend, Client
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, read_events, sent
from tests.parts import SAMPLES, TEST_TIMEOUT_SECONDS

JOBS = "/api/jobs"
SESSION = json.loads((SAMPLES / "gatekeeper-dental-clinic.json").read_text())
CHATS = (SAMPLES / "chats" / "support.jsonl").read_text().splitlines()[:6]
WAITING: dict[str, Any] = {"messages": "Hi", "user_id": "ann"}
QUICK = {"user_id": "ann", "streams": 1, "sessions_per_stream": 6}

pytestmark = pytest.mark.usefixtures("worker")


async def ended(http: httpx.AsyncClient, url: str) -> list[dict[str, Any]]:
    """The events of a job until its end."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS), http.stream("GET", f"{url}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream"), await stream.aread()
        return [event async for event in read_events(stream)]


async def gates(simulator: SimulatorAdmin, *, closed: bool) -> None:
    """Close or open the gate of every provider that may answer."""
    for provider in ("anthropic", "openai"):
        await simulator.gate(closed=closed, provider=provider)


async def test_a_generation_is_started_followed_and_read(http: httpx.AsyncClient):
    started = await http.post(f"{JOBS}/generate", json={"messages": "Which plan has SSO?", "user_id": "ann"})
    job = started.json()
    assert (started.status_code, job["kind"], started.headers["location"]) == (202, "Generate", job["url"])
    events = await ended(http, job["url"])
    assert events[-1]["event"] == "end"
    assert events[-1]["data"]["status"] == "completed"
    assert float(events[-1]["data"]["cost_usd"]) > 0
    result = (await http.get(f"{job['url']}/result")).json()
    assert result["success"]
    assert result["content"]
    assert (await http.get(f"{job['url']}/progress")).json() == {"status": "completed"}
    view = (await http.get(job["url"])).json()
    assert (view["id"], view["status"]) == (job["id"], "completed")


async def test_a_long_answer_with_a_schema_is_read_by_its_id(http: httpx.AsyncClient, client: Client):
    words = "word " * 600
    body = {"messages": f"Repeat: {words}", "user_id": "ann", "max_tokens": 4000}
    job = (await http.post(f"{JOBS}/generate", json=body)).json()
    await ended(http, job["url"])
    by_id = (await http.get(f"{job['url']}/result")).json()
    assert by_id["content"] == (await client.generation(job["id"]).result()).content


async def test_an_idempotency_key_is_one_job_and_another_body_a_conflict(http: httpx.AsyncClient):
    key, body = {"idempotency-key": "order-7"}, {"messages": "Hi", "user_id": "ann"}
    first, second = [await http.post(f"{JOBS}/generate", json=body, headers=key) for _ in range(2)]
    assert first.json() == second.json()
    other = await http.post(f"{JOBS}/generate", json={**body, "messages": "Bye"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "IdempotencyConflict")
    assert other.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("key", ["a/b", "..", "events", "é", "x" * 201])
async def test_a_key_that_could_not_be_part_of_a_path_is_refused(key: str, http: httpx.AsyncClient):
    headers = {"idempotency-key": key.encode()}
    answer = await http.post(f"{JOBS}/generate", json={"messages": "Hi", "user_id": "ann"}, headers=headers)
    assert (answer.status_code, "Idempotency-Key" in answer.json()["detail"]) == (400, True)


async def test_the_ids_of_the_request_are_in_the_workflows_memo(http: httpx.AsyncClient, temporal: TemporalClient):
    ids = {"x-request-id": "r-1", "x-correlation-id": "order-7"}
    job = (await http.post(f"{JOBS}/generate", json={"messages": "Hi", "user_id": "ann"}, headers=ids)).json()
    memo = await (await temporal.get_workflow_handle(job["id"]).describe()).memo()
    assert (memo["http_request_id"], memo["correlation_id"]) == ("r-1", "order-7")


async def test_a_session_is_analysed_from_json(http: httpx.AsyncClient):
    job = (await http.post(f"{JOBS}/session-analysis", json={"session": SESSION})).json()
    events = await ended(http, job["url"])
    assert events[-1]["data"]["status"] == "completed"
    result = (await http.get(f"{job['url']}/result")).json()
    assert result["analysis"]["session_id"] == SESSION["session_id"]
    assert (await http.get(JOBS, params={"kind": "SessionAnalysis"})).json()["jobs"][0]["id"] == job["id"]


async def test_events_tell_that_a_provisional_result_is_there_and_then_amended(
    http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    await simulator.fault("rate_limit", times=2, retry_after=2)
    body = {"session": SESSION, "run_name": "queued"}
    job = (await http.post(f"{JOBS}/session-analysis", json=body)).json()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS), http.stream("GET", f"{job['url']}/events") as stream:
        events = read_events(stream)
        async for event in events:
            if event["data"].get("progress", {}).get("provisional"):
                break
        first = (await http.get(f"{job['url']}/result")).json()
        rest = [event async for event in events]
    assert (first["status"], first["analysis"]["pending"]) == ("running", ["coaching"])
    assert rest[-1]["event"] == "end"
    last = (await http.get(f"{job['url']}/result")).json()
    assert (last["status"], last["analysis"]["pending"], last["analysis"]["coaching"]["fallback"]) == (
        "completed",
        [],
        False,
    )


async def test_a_session_is_analysed_from_an_upload_with_its_audio(http: httpx.AsyncClient):
    audio = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
    files = {"session": ("../../etc/passwd", json.dumps(SESSION)), "audio": ("a.ogg", audio)}
    answer = await http.post(
        f"{JOBS}/session-analysis", files=files, data={"options": json.dumps({"run_name": "again"})}
    )
    # The limit of the tests' gateway is for other paths.
    assert answer.status_code == 202, answer.text
    await ended(http, answer.json()["url"])
    provenance = (await http.get(f"{answer.json()['url']}/result")).json()["analysis"]["provenance"]
    assert "elevenlabs" in {one["provider"] for one in provenance}


async def test_a_session_is_rated_by_a_rubric_of_the_body(http: httpx.AsyncClient):
    levels = {"0": "none", "100": "open ones"}
    own = {"id": "own", "version": 1, "title": "Our demo"}
    own |= {"skill": [{"id": "questions", "title": "Asking", "weight": 1, "levels": levels}]}
    for rubric, reference in (("support", "support@1"), (own, "own@1")):
        job = (await http.post(f"{JOBS}/session-analysis", json={"session": SESSION, "rubric": rubric})).json()
        await ended(http, job["url"])
        result = (await http.get(f"{job['url']}/result")).json()
        found = result["analysis"]["coaching"]["rubric"]
        assert f"{found['id']}@{found['version']}" == reference
    wrong = await http.post(f"{JOBS}/session-analysis", json={"session": SESSION, "rubric": own | {"skill": []}})
    assert (wrong.status_code, "rubric: skill" in wrong.text) == (400, True)


async def test_a_recording_alone_is_analysed_from_an_upload(http: httpx.AsyncClient):
    audio = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
    options = json.dumps({"user_id": "ann", "session_id": "call-7"})
    answer = await http.post(f"{JOBS}/session-analysis", files={"audio": ("a.ogg", audio)}, data={"options": options})
    assert answer.status_code == 202, answer.text
    await ended(http, answer.json()["url"])
    analysis = (await http.get(f"{answer.json()['url']}/result")).json()["analysis"]
    assert (analysis["session_id"], analysis["user_id"], analysis["provenance"][0]["step"]) == (
        "call-7",
        "ann",
        "hearing",
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://bucket/call.wav", "presigned"),
        ("https://127.0.0.1/call.wav?signature=s3cret", "127.0.0.1 is not a public host"),
    ],
)
async def test_a_url_that_must_not_be_fetched_is_refused(url: str, words: str, http: httpx.AsyncClient):
    refused = await http.post(f"{JOBS}/session-analysis", json={"audio_url": url})
    assert (refused.status_code, words in refused.text, "s3cret" in refused.text) == (400, True, False), refused.text


async def test_a_transcript_is_analysed_as_it_was_exported(http: httpx.AsyncClient):
    cue = "WEBVTT\n\n00:01.000 --> 00:04.000\nAnn: How many lifts do you have?\n"
    options = json.dumps({"user_speaker": "Ann", "run_name": "vtt"})
    answer = await http.post(f"{JOBS}/session-analysis", files={"session": ("m.vtt", cue)}, data={"options": options})
    assert answer.status_code == 202, answer.text
    await ended(http, answer.json()["url"])
    analysis = (await http.get(f"{answer.json()['url']}/result")).json()["analysis"]
    assert analysis["habits"]["questions"] == 1


@pytest.fixture
async def labelled(http: httpx.AsyncClient) -> dict[str, Any]:
    """A labelling run of an upload, started."""
    files = {"file": ("chats.jsonl", "\n".join(CHATS))}
    answer = await http.post(f"{JOBS}/auto-analyze", files=files, data={"options": json.dumps(QUICK)})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def test_chats_are_uploaded_and_labelled_and_every_label_is_an_event_once(
    http: httpx.AsyncClient, labelled: dict[str, Any]
):
    assert labelled["imported"]["sessions"] == len(CHATS)
    events = await ended(http, labelled["url"])
    found = [
        (one["kind"], one["label"]) for event in events if event["event"] == "labels" for one in event["data"]["labels"]
    ]
    assert found
    assert len(found) == len({*found})
    report = (await http.get(f"{labelled['url']}/result")).json()
    assert report["status"] == "completed"
    assert {line["kind"] for line in report["labels"]} <= {kind for kind, _ in found}
    ids = [int(event["id"].split("-")[0]) for event in events]
    assert ids == sorted(ids)


async def test_an_export_of_another_product_is_uploaded_with_roles(http: httpx.AsyncClient):
    chat = "12/03/2024, 09:14 - Ann: My lamp broke\n12/03/2024, 09:20 - Shop: We send another\n"
    files = {"file": ("WhatsApp Chat with Ann.txt", chat)}
    how = {"format": "whatsapp", "roles": {"Shop": "agent"}, "session_gap_hours": 5}
    options = json.dumps(QUICK | how)
    answer = await http.post(f"{JOBS}/auto-analyze", files=files, data={"options": options})
    assert (answer.status_code, answer.json().get("imported", {}).get("sessions")) == (202, 1), answer.text
    wrong = json.dumps(QUICK | {"format": "xml"})
    answer = await http.post(f"{JOBS}/auto-analyze", files=files, data={"options": wrong})
    assert (answer.status_code, "format" in answer.json()["detail"]) == (400, True), answer.text


async def test_a_reader_resumes_after_its_last_event(http: httpx.AsyncClient, labelled: dict[str, Any]):
    events = await ended(http, labelled["url"])
    at = next(number for number, event in enumerate(events) if event["event"] == "labels")
    headers = {"last-event-id": events[at]["id"]}
    async with http.stream("GET", f"{labelled['url']}/events", headers=headers) as stream:
        resumed = [event async for event in read_events(stream)]
    labels = [event["data"] for event in events[at + 1 :] if event["event"] == "labels"]
    assert [one for event in resumed if event["event"] == "labels" for one in event["data"]["labels"]] == [
        one for batch in labels for one in batch["labels"]
    ]
    assert resumed[-1]["event"] == "end"


async def test_events_come_over_a_websocket_too(gateway: Running, http: httpx.AsyncClient, client: Client):
    job = (await http.post(f"{JOBS}/generate", json={"messages": "Hi", "user_id": "ann"})).json()
    secret = (await client.gateway_keys.create("socket")).secret
    address = f"{gateway.url.replace('http', 'ws')}{job['url']}/events"
    async with websockets.connect(address, additional_headers={"authorization": f"Bearer {secret}"}) as socket:
        events = [json.loads(message) async for message in socket]
    assert events[-1]["event"] == "end"
    assert events[-1]["data"]["status"] == "completed"


async def test_a_websocket_stays_open_whatever_its_reader_sends(
    gateway: Running, http: httpx.AsyncClient, secret: str, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
):
    """A server that does not read does not see the answers to its pings, and takes the connection for dead."""
    monkeypatch.setattr("gateway.feeds.HEARTBEAT_SECONDS", 0.05)
    gateway.server.config.ws_ping_interval, gateway.server.config.ws_ping_timeout = 0.05, 1.0
    await gates(simulator, closed=True)
    job = (await http.post(f"{JOBS}/generate", json=WAITING)).json()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS), events_socket(gateway, job["url"], secret) as socket:
        for message in ("hello", b"hello", "hello"):
            await socket.send(message)
        # They take two seconds, longer than the server waits for the answer to a ping.
        assert "end" not in [json.loads(await socket.recv())["event"] for _ in range(40)]


async def test_a_reader_of_a_websocket_who_leaves_is_noticed_before_the_next_event(
    gateway: Running, http: httpx.AsyncClient, secret: str, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.feeds.HEARTBEAT_SECONDS", 2.0 * TEST_TIMEOUT_SECONDS)
    await gates(simulator, closed=True)
    job = (await http.post(f"{JOBS}/generate", json=WAITING)).json()
    feeds = gateway.server._gateway.feeds
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        async with events_socket(gateway, job["url"], secret) as socket:
            await socket.recv()
            assert feeds._feeds
        while feeds._feeds:
            await asyncio.sleep(0.01)


def events_socket(gateway: Running, job_url: str, secret: str) -> websockets.connect:
    """A WebSocket with the events of a job, once it is entered."""
    headers = {"authorization": f"Bearer {secret}"}
    address = f"{gateway.url.replace('http', 'ws', 1)}{job_url}/events"
    return websockets.connect(address, additional_headers=headers, proxy=None)


async def test_a_websocket_without_a_key_is_refused_with_a_problem(gateway: Running):
    address = f"{gateway.url.replace('http', 'ws')}{JOBS}/x/events"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(address)
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["code"] == "Unauthenticated"


async def test_one_poll_serves_all_readers_and_ends_with_the_last(
    gateway: Running, client: Client, simulator: SimulatorAdmin
):
    feeds = gateway.server._gateway.feeds
    await gates(simulator, closed=True)
    key = await client.gateway_keys.create("readers", concurrent_streams=21)
    handle = await client.start_generation(**WAITING)
    async with gateway.http(key.secret, limits=httpx.Limits(max_connections=30)) as http:
        url = f"{JOBS}/{handle.id.replace('/', '%2F')}/events"
        streams = [await http.send(http.build_request("GET", url), stream=True) for _ in range(21)]
        assert {stream.status_code for stream in streams} == {200}
        [feed] = feeds._feeds.values()
        assert feed.readers == 21
        above = await http.get(url)
        assert (above.status_code, above.json()["code"]) == (429, "TooManyRequests")
        for stream in streams:
            await stream.aclose()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while feeds._feeds:
                await asyncio.sleep(0.01)
    await handle.cancel()


async def test_a_job_is_cancelled_and_an_ended_one_is_not(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    await gates(simulator, closed=True)
    job = (await http.post(f"{JOBS}/generate", json=WAITING)).json()
    unfinished = await http.get(f"{job['url']}/result")
    assert (unfinished.status_code, unfinished.headers["retry-after"]) == (409, "1")
    assert (await http.post(f"{job['url']}/cancel")).status_code == 202
    await gates(simulator, closed=False)
    events = await ended(http, job["url"])
    assert events[-1]["data"]["status"] == "cancelled"
    again = await http.post(f"{job['url']}/cancel")
    assert (again.status_code, "cannot be cancelled" in again.json()["detail"]) == (400, True)
    result = await http.get(f"{job['url']}/result")
    assert (result.status_code, result.json()["code"]) == (409, "Cancelled")


async def test_a_labelling_run_is_controlled(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    await gates(simulator, closed=True)
    body = {"file": ("chats.jsonl", "\n".join(CHATS))}
    options = {"options": json.dumps({**QUICK, "run_name": "controlled"})}
    job = (await http.post(f"{JOBS}/auto-analyze", files=body, data=options)).json()
    paused = await http.post(f"{job['url']}/pause")
    assert (paused.status_code, paused.json()["held"]) == (200, "paused"), paused.text
    refused = await http.post(f"{job['url']}/resume", json={"budget_usd": "-1"})
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
    resumed = await http.post(f"{job['url']}/resume", json={"budget_usd": "7.50"})
    assert (resumed.json()["held"], resumed.json()["budget_usd"]) == ("", "7.50")
    assert (await http.post(f"{job['url']}/resume")).json()["budget_usd"] == "7.50"
    assert (await http.post(f"{job['url']}/streams", json={"streams": 65})).status_code == 400
    assert (await http.post(f"{job['url']}/streams", json={"streams": 2})).json()["streams"] == 2
    assert (await http.get(f"{job['url']}/progress")).json()["parallel_streams"] == 2
    assert (await http.post(f"{job['url']}/finish")).json()["finishing"] is True
    late = await http.post(f"{job['url']}/streams", json={"streams": 3})
    assert (late.status_code, "until all sessions are labelled" in late.json()["detail"]) == (400, True)
    await gates(simulator, closed=False)
    await ended(http, job["url"])
    assert (await http.post(f"{job['url']}/pause")).status_code == 404
    other = (await http.post(f"{JOBS}/generate", json={"messages": "Hi", "user_id": "ann"})).json()
    of_runs = [
        http.post(f"{other['url']}/pause"),
        http.get(f"{other['url']}/labels"),
        http.post(f"{other['url']}/labels/undo", json={}),
        http.post(f"{other['url']}/fork", json={"model": "gpt-4o"}),
        http.get(f"{other['url']}/comparison", params={"with": job["id"]}),
    ]
    for answer in await asyncio.gather(*of_runs):
        assert (answer.status_code, "is not a labelling run" in answer.json()["detail"]) == (400, True), answer.text


async def test_a_labelling_run_is_repeated_and_compared(http: httpx.AsyncClient):
    body = {"file": ("chats.jsonl", "\n".join(CHATS))}
    job = (await http.post(f"{JOBS}/auto-analyze", files=body, data={"options": json.dumps(QUICK)})).json()
    await ended(http, job["url"])
    same = await http.post(f"{job['url']}/fork", json={"budget_usd": 3})
    assert (same.status_code, "name another model" in same.json()["detail"]) == (400, True)
    named = await http.post(f"{job['url']}/fork", json={"instructions": "x", "run_name": "fork"})
    assert (named.status_code, "run_name" in named.json()["detail"]) == (400, True)
    started = await http.post(f"{job['url']}/fork", json={"instructions": "Keep refunds apart.", "budget_usd": 3})
    assert (started.status_code, started.headers["location"]) == (202, started.json()["url"]), started.text
    await ended(http, started.json()["url"])
    found = await http.get(f"{job['url']}/comparison", params={"with": started.json()["id"]})
    assert (found.status_code, found.json()["sessions"]) == (200, len(CHATS)), found.text
    assert found.json()["second"]["instructions"] == "Keep refunds apart."
    assert (await http.get(f"{job['url']}/comparison", params={"with": "nothing"})).status_code == 404


async def test_the_list_of_jobs_has_pages_without_gaps(http: httpx.AsyncClient, client: Client):
    for number in range(5):
        await client.generate("Hi", user_id="ann", key=f"job-{number}")
    pages, cursor = [], None
    while True:
        page = (await http.get(JOBS, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        pages.append([job["id"].rpartition("/")[2] for job in page["jobs"]])
        cursor = page["next"]
        if cursor is None:
            break
    assert pages == [["job-4", "job-3"], ["job-2", "job-1"], ["job-0"]]


async def test_a_running_generation_is_listed(http: httpx.AsyncClient, backend: Backend, simulator: SimulatorAdmin):
    await gates(simulator, closed=True)
    job = (await http.post(f"{JOBS}/generate", json=WAITING)).json()
    async with asyncio.timeout(20):  # Temporal lists a workflow about a second after its start
        while not (listed := (await http.get(JOBS, params={"status": "running"})).json()["jobs"]):
            await asyncio.sleep(0.05)
    assert [(one["id"], one["user_id"], one["subject"]) for one in listed] == [(job["id"], "ann", "ai_message")]
    assert (await http.get(JOBS, params={"kind": "AutoAnalyze"})).json()["jobs"] == []
    assert await backend.client("it's \\' OR 1=1").jobs() == []
    await gates(simulator, closed=False)
    await ended(http, job["url"])
    [done] = (await http.get(JOBS)).json()["jobs"]
    assert (done["id"], done["status"]) == (job["id"], "completed")
    assert done["created_at"] < done["ended_at"]


@pytest.mark.parametrize("is_broken", [False, True])
async def test_an_inline_generation_is_read_by_its_id(
    http: httpx.AsyncClient, simulator: SimulatorAdmin, is_broken: bool
):
    if is_broken:  # the answer continues, by a further attempt
        await simulator.fault("aborted", provider="openai")
    words = "word " * 600
    body = {"messages": f"Repeat: {words}", "user_id": "ann", "max_tokens": 4000}
    inline = {"x-parley-mode": "inline"}
    async with http.stream("POST", "/api/chat/stream", json=body, headers=inline) as stream:
        [start, *_, end] = [event async for event in read_events(stream)]
    url = f"{JOBS}/{quote(start['data']['id'], safe='')}"
    assert (await http.get(url)).json()["status"] == "completed"
    result = (await http.get(f"{url}/result")).json()
    known = {"usage", "cost_usd", "provider", "model", "answered_by", "finish", "attempts", "cached"}
    assert (result["success"], result["content"]) == (True, end["data"]["content"])
    assert {name: result["meta"][name] for name in known} == {name: end["data"]["meta"][name] for name in known}
    assert result["meta"]["attempts"] == (2 if is_broken else 1)
    events = await ended(http, url)
    assert (events[-1]["event"], events[-1]["data"]["status"]) == ("end", "completed")
    assert events[-1]["data"]["cost_usd"] == result["meta"]["cost_usd"]
    assert (await http.post(f"{url}/cancel")).status_code == 400


async def test_readers_are_sent_away_when_the_gateway_drains(
    gateway: Running, http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    await gates(simulator, closed=True)
    job = (await http.post(f"{JOBS}/generate", json=WAITING)).json()
    async with http.stream("GET", f"{job['url']}/events") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "retry: 1000"
        gateway.server.stop()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            rest = [line async for line in lines]
    assert not any(line == "event: end" for line in rest)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await gateway.serving


async def test_readers_of_events_are_sent_away_when_their_key_is_revoked(
    gateway: Running, client: Client, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.auth.KNOWN_SECONDS", 0.0)
    monkeypatch.setattr("gateway.feeds.HEARTBEAT_SECONDS", 0.05)
    await gates(simulator, closed=True)
    key = await client.gateway_keys.create("app")
    async with gateway.http(key.secret) as http:
        job = (await http.post(f"{JOBS}/generate", json=WAITING)).json()
        at = gateway.url.replace("http", "ws", 1) + job["url"] + "/events"
        async with (
            http.stream("GET", f"{job['url']}/events") as stream,
            websockets.connect(at, additional_headers={"authorization": f"Bearer {key.secret}"}, proxy=None) as socket,
        ):
            await client.gateway_keys.revoke(key.key_id)
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                lines = [line async for line in stream.aiter_lines()]
                events = [json.loads(text) async for text in socket]
    assert "event: end" not in lines
    assert all(event["event"] != "end" for event in events)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while gateway.server._gateway.feeds._feeds:
            await asyncio.sleep(0.01)


async def test_events_are_asked_for_again_elsewhere_where_a_gateway_ends(
    gateway: Running, http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    await gates(simulator, closed=True)
    job = (await http.post(f"{JOBS}/generate", json=WAITING)).json()
    gateway.server._gateway.draining.set()
    answer = await http.get(f"{job['url']}/events")
    assert (answer.status_code, "event:" in answer.text) == (200, False)


@pytest.mark.parametrize(
    ("path", "options", "problem"),
    [
        ("generate", {"json": {"messages": "Hi"}}, "user_id"),
        ("generate", {"json": {"messages": "Hi", "user_id": "ann", "modle": "x"}}, "modle"),
        ("generate", {"json": {"messages": "", "user_id": "ann"}}, "messages"),
        ("generate", {"json": {"messages": "Hi", "user_id": "ann", "model": "no-such-model"}}, "no-such-model"),
        ("generate", {"content": b'{"messages": ', "headers": {"content-type": "application/json"}}, "not JSON"),
        ("session-analysis", {"json": {"session": {"turns": []}}}, "session"),
        ("session-analysis", {"json": {"session": {"segments": [{"start": 0}]}}}, "segments.0.end"),
        ("session-analysis", {"json": {}}, "session"),
        ("session-analysis", {"content": b"\xff", "headers": {"content-type": "application/json"}}, "UTF-8"),
        ("session-analysis", {"json": {"session": SESSION, "run_name": "a/b"}}, "run_name"),
        ("auto-analyze", {"json": {"user_id": "ann"}}, "dataset_id"),
        ("auto-analyze", {"files": {"other": ("a", "b")}, "data": {"options": '{"user_id": "ann"}'}}, "file"),
        ("auto-analyze", {"files": {"file": ("a.jsonl", "{}")}, "data": {"options": '{"user_id": "ann"}'}}, "line 1"),
        ("auto-analyze", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "body"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_bad_input_is_refused_with_its_place(
    path: str, options: dict[str, Any], problem: str, http: httpx.AsyncClient
):
    answer = await http.post(f"{JOBS}/{path}", **options)
    assert answer.status_code == 400, answer.text
    assert problem in answer.text


async def test_another_type_and_a_large_body_are_refused(http: httpx.AsyncClient):
    typed = await http.post(f"{JOBS}/generate", content=b"a=b", headers={"content-type": "text/plain"})
    assert (typed.status_code, typed.json()["code"]) == (415, "UnsupportedMediaType")
    body = {"messages": "x" * 100_000, "user_id": "ann"}
    large = await http.post(f"{JOBS}/generate", json=body)
    assert (large.status_code, large.json()["code"]) == (413, "BodyTooLarge")

    async def pieces():
        for _ in range(3):
            yield b"x" * 50_000

    chunked = await http.post(f"{JOBS}/generate", content=pieces(), headers={"content-type": "application/json"})
    assert (chunked.status_code, chunked.json()["code"]) == (413, "BodyTooLarge")


@pytest.mark.parametrize("path", ["session-analysis", "auto-analyze"])
async def test_a_json_body_is_limited_also_where_files_are_uploaded(path: str, http: httpx.AsyncClient):
    """JSON is read whole into memory, and files are not."""
    large = json.dumps({"user_id": "ann", "surprise": "x" * 100_000}).encode()
    answer = await http.post(f"{JOBS}/{path}", content=large, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "BodyTooLarge")


async def test_a_body_that_stops_is_refused(impatient: Running, client: Client):
    secret = (await client.gateway_keys.create("slow")).secret
    headers = f"Host: localhost\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json"
    request = f'POST {JOBS}/generate HTTP/1.1\r\n{headers}\r\nContent-Length: 100\r\n\r\n{{"messages": '
    answer = await sent(impatient, request.encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"TooSlow"' in answer


@pytest.mark.parametrize("job_id", ["%00", "..%2F..%2Fetc", "x" * 2000, "%F0%9F%98%80", "a%0D%0Ab"])
async def test_an_odd_id_is_an_unknown_one(job_id: str, http: httpx.AsyncClient):
    for part in ("", "/progress", "/result", "/events"):
        answer = await http.get(f"{JOBS}/{job_id}{part}")
        assert (answer.status_code, answer.json()["code"]) == (404, "NotFound"), part


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("chats.jsonl", "chats.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a b.csv", "a_b.csv"),
        ("", "upload.jsonl"),
        ("..", "upload.jsonl"),
        (".hidden", "hidden"),
        ("x" * 300 + ".csv", "x" * 196 + ".csv"),
        ("я" * 300 + ".csv", "я" * 98 + ".csv"),
        ("WhatsApp Chat with Jose\u0301 Núñez.txt", "WhatsApp_Chat_with_José_Núñez.txt"),
        ("\ud83d../美.txt", "美.txt"),
        ("a\ud83d🌸／b.txt", "a_b.txt"),
        ("a\0b\n.csv", "a_b_.csv"),
    ],
)
def test_a_file_name_is_only_a_name(given: str, name: str):
    assert safe_name(given) == name
