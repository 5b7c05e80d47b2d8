"""A small agent of a phone number that follows ConversationRelay's rules, for the tests of the simulator.

It checks every signature with an HMAC of its own, and answers by rules. It can be set to break single rules.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import quoteattr

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

TOKEN = "the-account's-token"
LONG = "We are open from Monday to Friday. We open at nine in the morning, and we close at five in the afternoon."


@dataclass
class Agent:
    """What the agent does, and what it received.

    Attributes:
        attributes: of <ConversationRelay>, beside url.
        after: TwiML that the action callback answers, by SessionStatus.
        answer: the pieces of the answer to a prompt, with `last` on the last one.
        pace: seconds between the pieces.
    """

    attributes: dict[str, str] = field(default_factory=dict)
    nouns: str = ""
    action: str = 'action="/phone/action"'
    after: dict[str, str] = field(default_factory=dict)
    answer: Callable[[str], list[str]] = lambda _: words(LONG)
    pace: float = 0.0
    voice_status: int = 200
    rejects: bool = False
    on_prompt: Callable[["Talk", str], Any] | None = None
    on_key: Callable[["Talk", str], Any] | None = None
    public: str | None = None
    url: str = ""
    frames: list[dict[str, Any]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    forms: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)
    unsigned: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def form(self, path: str) -> dict[str, str]:
        """The last form that a path received."""
        return dict(next(form for found, form in reversed(self.forms) if found == path))

    def received(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]


class Talk:
    """The agent's side of one socket."""

    def __init__(self, socket: WebSocket, agent: Agent) -> None:
        self.socket, self.agent = socket, agent
        self.answering: asyncio.Task[None] | None = None

    async def send(self, **frame: Any) -> None:
        await self.socket.send_text(json.dumps(frame))

    async def answer(self, prompt: str) -> None:
        pieces = self.agent.answer(prompt)
        for number, piece in enumerate(pieces, 1):
            await self.send(type="text", token=piece, last=number == len(pieces))
            await asyncio.sleep(self.agent.pace)

    async def hold(self) -> None:
        try:
            while True:
                await self._take(await self.socket.receive_text())
        except WebSocketDisconnect as left:
            self.agent.closes.append(left.code)
        finally:
            self._stop()

    async def _take(self, data: str) -> None:
        self.agent.raw.append(data)
        try:
            frame = json.loads(data)
        except ValueError:
            return
        self.agent.frames.append(frame)
        if frame["type"] == "interrupt":
            self._stop()
        if frame["type"] == "prompt" and frame["last"]:
            self._stop()
            made = self.agent.on_prompt or Talk.answer
            self.answering = asyncio.create_task(made(self, frame["voicePrompt"]))
        if frame["type"] == "dtmf" and self.agent.on_key:
            await self.agent.on_key(self, frame["digit"])

    def _stop(self) -> None:
        if self.answering:
            self.answering.cancel()


def words(text: str) -> list[str]:
    """The words of a text as a model streams them."""
    return re.findall(r"\S+\s*", text)


class Server:
    """The webhooks and the socket of an agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.app = Starlette(
            routes=[
                Route("/phone/voice", self._voice, methods=["POST"]),
                Route("/phone/action", self._action, methods=["POST"]),
                Route("/phone/status", self._status, methods=["POST"]),
                WebSocketRoute("/phone/relay", self._relay),
            ]
        )

    async def _voice(self, request: Request) -> Response:
        await self._check(request)
        reject = '<Response><Reject reason="busy"/></Response>'
        twiml = reject if self._agent.rejects else connect(self._agent)
        return Response(twiml, self._agent.voice_status, media_type="text/xml")

    async def _action(self, request: Request) -> Response:
        form = dict(await self._check(request))
        twiml = self._agent.after.get(form["SessionStatus"], "<Response><Hangup/></Response>")
        return Response(twiml, media_type="text/xml")

    async def _status(self, request: Request) -> Response:
        await self._check(request)
        return Response(status_code=204)

    async def _relay(self, socket: WebSocket) -> None:
        url = connect_url(self._agent)
        self._agent.headers.append(dict(socket.headers))
        if not is_signed(url, [], socket.headers.get("x-twilio-signature", "")):
            self._agent.unsigned.append(url)
            await socket.close(4003)
            return
        await socket.accept()
        await Talk(socket, self._agent).hold()

    async def _check(self, request: Request) -> list[tuple[str, str]]:
        form = parse_qsl((await request.body()).decode(), keep_blank_values=True)
        self._agent.forms.append((request.url.path, form))
        self._agent.headers.append(dict(request.headers))
        url = f"{self._agent.public or self._agent.url}{request.url.path}"
        if not is_signed(url, form, request.headers.get("x-twilio-signature", "")):
            self._agent.unsigned.append(url)
        return form


def connect_url(agent: Agent) -> str:
    return f"{agent.public or agent.url}/phone/relay".replace("http", "ws", 1)


def connect(agent: Agent) -> str:
    attributes = " ".join(f"{name}={quoteattr(value)}" for name, value in agent.attributes.items())
    noun = f'<ConversationRelay url="{connect_url(agent)}" {attributes}>{agent.nouns}</ConversationRelay>'
    return f"<Response><Connect {agent.action}>{noun}</Connect></Response>"


def is_signed(url: str, form: list[tuple[str, str]], signature: str) -> bool:
    signed = url + "".join(f"{name}{value}" for name, value in sorted(form))
    wanted = base64.b64encode(hmac.new(TOKEN.encode(), signed.encode(), hashlib.sha1).digest()).decode()
    return hmac.compare_digest(wanted, signature)


@asynccontextmanager
async def serving(agent: Agent) -> AsyncIterator[Agent]:
    """Serve the agent on a free port of loopback; its address is `agent.url`."""
    config = uvicorn.Config(Server(agent).app, port=0, log_level="warning", access_log=False, ws="websockets-sansio")
    server = uvicorn.Server(config)
    serve = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    agent.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield agent
    finally:
        server.should_exit = True
        await serve
