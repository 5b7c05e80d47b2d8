"""Twilio Agent Connect, for `twilio_oracle.py`: `python twilio_agent_connect.py serve`, or `read` with JSON on stdin.

It runs in an environment without Parley, so it imports nothing of it. `serve` prints what its server receives, how it
reads that, and what it sends, one JSON object a line. `read` prints what its models make of Parley's frames and TwiML,
and frames and TwiML of its own.
"""

import json
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from typing import Any
from xml.etree import ElementTree

# It sends usage data to its maker otherwise, and decides that once.
os.environ["TAC_ANALYTICS_DISABLED"] = "true"

import uvicorn
from pydantic import ValidationError
from tac import TAC, TACConfig  # pyright: ignore[reportMissingImports]
from tac.channels.voice import VoiceChannel  # pyright: ignore[reportMissingImports]
from tac.channels.voice.conversation_relay.twiml import generate_twiml  # pyright: ignore[reportMissingImports]
from tac.models.handoff import PendingHandoffData  # pyright: ignore[reportMissingImports]
from tac.models.voice import (  # pyright: ignore[reportMissingImports]
    ConversationRelayCallbackPayload,
    InterruptMessage,
    LanguageConfig,
    PromptMessage,
    SetupMessage,
    VoiceTwiMLOptionsConversationRelay,
)
from tac.server import FastAPIWebSocketAdapter, TACFastAPIServer  # pyright: ignore[reportMissingImports]

MODELS: dict[str, Any] = {"setup": SetupMessage, "prompt": PromptMessage, "interrupt": InterruptMessage}
LONG = "We are open from Monday to Friday. We open at nine in the morning, and we close at five in the afternoon."
# What the caller says to reach a person.
PERSON = "person"
HANDOFF = {"reason": "transfer", "said": "„Grüße“"}
PARAMETERS = {"customer": 'a & "<b>"'}
OPTIONS = VoiceTwiMLOptionsConversationRelay(
    welcome_greeting="Hello! How can I help you?",
    welcome_greeting_interruptible="speech",
    action_url="https://phone.example.com/conversation-relay-callback",
    websocket_url="wss://phone.example.com/ws",
    conversation_configuration="conv_configuration_1",
    language="en-US",
    tts_language="en-GB",
    transcription_language="multi",
    voice="Joanna-Neural",
    tts_provider="Amazon",
    transcription_provider="Deepgram",
    speech_model="flux",
    elevenlabs_text_normalization="auto",
    eot_threshold=0.8,
    partial_prompts=True,
    deepgram_smart_format=False,
    speech_timeout=800,
    interruptible="any",
    interrupt_sensitivity="low",
    report_input_during_agent_speech="dtmf",
    ignore_backchannel=True,
    preemptible=True,
    dtmf_detection=True,
    hints="Parley,Temporal",
    events="speaker-events tokens-played",
    debug="debugging",
    intelligence_service="calls",
    languages=[LanguageConfig(code="es-MX", voice="Mia", tts_provider="Amazon", speech_model="telephony")],
    custom_parameters=PARAMETERS,
)
# Those with all that the models have, and those in which what is not known is null.
FRAMES = {
    "setup": SetupMessage(
        session_id="VX1",
        call_sid="CA1",
        parent_call_sid="CA0",
        from_number="+15550100001",
        to_number="+15550100002",
        forwarded_from="+15550100003",
        caller_name="Ada",
        direction="inbound",
        call_type="PSTN",
        call_status="RINGING",
        account_sid="AC1",
        custom_parameters={"customer": "7", "nested": {"a": 1}},
    ),
    "setup, with nulls": SetupMessage(call_sid="CA1"),
    "prompt": PromptMessage(voice_prompt="Grüße aus Köln", lang="de-DE", last=True),
    "prompt, partial": PromptMessage(voice_prompt="Grüße", lang="de-DE", last=False),
    "prompt, with nulls": PromptMessage(voice_prompt="Hello"),
    "interrupt": InterruptMessage(utterance_until_interrupt="We are open", duration_until_interrupt_ms=460),
    "interrupt, with nulls": InterruptMessage(utterance_until_interrupt="We are open"),
}


def main(arguments: list[str]) -> None:
    if arguments == ["read"]:
        json.dump(read(json.load(sys.stdin)), sys.stdout)
    elif arguments == ["serve"]:
        serve()
    else:
        sys.exit(__doc__)


# Its models


def read(given: dict[str, Any]) -> dict[str, Any]:
    """What its models make of Parley's frames and TwiML, and its own.

    Args:
        given: `end`: a frame; `twiml`: documents by name.
    """
    return {
        "version": version("twilio-agent-connect"),
        "end": _read(PendingHandoffData, json.loads(given["end"])),
        "twiml": {name: rewritten(document) for name, document in given["twiml"].items()},
        "frames": {name: frame.model_dump_json(by_alias=True) for name, frame in FRAMES.items()},
        "own end": PendingHandoffData(handoff_data=json.dumps(HANDOFF)).model_dump_json(by_alias=True),
        "own twiml": generate_twiml(str(OPTIONS.websocket_url), OPTIONS),
    }


def _read(model: Any, frame: dict[str, Any]) -> dict[str, Any]:
    """The fields of a frame as a model reads them, by the names on the wire, or why it refuses them."""
    try:
        return {"fields": model(**frame).model_dump(by_alias=True)}
    except ValidationError as error:
        return {"refused": _refusal(error)}


def _refusal(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def rewritten(document: str) -> dict[str, Any]:
    """The TwiML that its generator writes for the options that are read from another TwiML."""
    try:
        options = _options(ElementTree.fromstring(document))  # noqa: S314 - Parley wrote it
    except ValidationError as error:
        return {"refused": _refusal(error)}
    return {"twiml": generate_twiml(str(options.websocket_url), options)}


def _options(response: ElementTree.Element) -> Any:
    connect = response[0]
    relay = connect[0]
    found = _fields(VoiceTwiMLOptionsConversationRelay, relay.attrib)
    if url := found.pop("url", None):
        found["websocket_url"] = url
    languages = [LanguageConfig(**_fields(LanguageConfig, one.attrib)) for one in relay.findall("Language")]
    parameters = {one.get("name", ""): one.get("value", "") for one in relay.findall("Parameter")}
    return VoiceTwiMLOptionsConversationRelay(
        **found, action_url=connect.get("action"), languages=languages, custom_parameters=parameters
    )


def _fields(model: Any, attributes: dict[str, str]) -> dict[str, str]:
    """Attributes by the names of a model's fields. One that it does not know keeps its name, and is refused."""
    names = {_camel(name): name for name in model.model_fields}
    return {names.get(name, name): value for name, value in attributes.items()}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


# Its server


def serve() -> None:
    """Answer phone calls at a free port until the process is ended."""
    config = TACConfig(
        account_sid=os.environ["ORACLE_ACCOUNT_SID"],
        auth_token=os.environ["ORACLE_AUTH_TOKEN"],
        api_key="SK" + "0" * 32,
        api_secret="none",  # noqa: S106
        phone_number="+15550100002",
        voice_public_domain=os.environ["ORACLE_DOMAIN"],
        log_level="DEBUG",
    )
    with redirect_stdout(StringIO()):  # its own log begins there
        tac = TAC(config)
    voice = VoiceChannel(tac)
    _watch_log()
    _watch_frames()
    _register(tac, voice)
    server = TACFastAPIServer(tac, voice_channel=voice)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    emit("listening", port=listening.getsockname()[1])
    uvicorn.Server(uvicorn.Config(server.app, log_level="warning", access_log=False)).run(sockets=[listening])


def emit(event: str, **details: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
    sys.stdout.flush()


class EmittedLog(logging.Handler):
    """Emits its warnings and errors, and which types of frames it skips."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            emit("warning", text=text)
        elif text.startswith("Skip message type"):
            emit("skipped", type=text.rpartition(" ")[2])


def _watch_log() -> None:
    """Take the place of its own handler, which writes to stdout."""
    logger = logging.getLogger("tac")
    logger.handlers = [EmittedLog()]
    logger.propagate = False


def _watch_frames() -> None:
    receive, send = FastAPIWebSocketAdapter.receive_json, FastAPIWebSocketAdapter.send_text

    async def receive_json(self: Any) -> Any:
        frame = await receive(self)
        model = MODELS.get(frame.get("type"))
        emit("received", frame=frame, **(_read(model, frame) if model else {}))
        return frame

    async def send_text(self: Any, data: str) -> None:
        emit("sent", frame=data)
        await send(self, data)

    FastAPIWebSocketAdapter.receive_json, FastAPIWebSocketAdapter.send_text = receive_json, send_text


def _register(tac: Any, voice: Any) -> None:
    async def twiml(request: Any) -> Any:
        options = {"greeting": LONG, "parameters": PARAMETERS}
        emit("request", fields=request.model_dump(by_alias=True), options=options)
        return VoiceTwiMLOptionsConversationRelay(
            dtmf_detection=True,
            events="speaker-events tokens-played",
            welcome_greeting=LONG,
            custom_parameters=PARAMETERS,
        )

    async def answer(text: str, session: Any, _: Any) -> str | None:
        emit("prompt", text=text)
        if PERSON in text:
            session.pending_handoff_data = PendingHandoffData(handoff_data=json.dumps(HANDOFF))
            return "One moment."
        await voice.send_response(session.conversation_id, _words())
        return None

    async def callback(form: dict[str, str]) -> None:
        emit("callback", form=form, **_read(ConversationRelayCallbackPayload, form))
        await handle(form)

    async def status(event: Any) -> None:
        emit("status", fields=event.model_dump(by_alias=True))

    handle, voice.handle_twilio_provider_callback = voice.handle_twilio_provider_callback, callback
    voice.on_inbound_call_twiml(twiml)
    voice.on_call_status(status)
    tac.on_message_ready(answer)
    tac.on_interrupt(lambda _, frame: emit("interrupt", fields=frame.model_dump(by_alias=True)))
    tac.on_conversation_ended(lambda session: emit("ended", call_sid=session.call_sid))


async def _words() -> AsyncGenerator[str, None]:
    for number, word in enumerate(LONG.split()):
        yield f" {word}" if number else word


if __name__ == "__main__":
    main(sys.argv[1:])
