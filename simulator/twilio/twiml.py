"""Reads TwiML as Twilio does: what it does not know is reported in the debugger and ignored."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from xml.etree import ElementTree

MOST_BYTES = 64 * 1024
TYPES = ("text/xml", "application/xml", "text/html")
BOOLEANS = ("true", "false")
INPUTS = ("none", "dtmf", "speech", "any", *BOOLEANS)
# `true` and `false` are the older names of these two.
MEANINGS = {"true": "any", "false": "none"}

# What each element may have. The nouns of other products that <Connect> and <Dial> take are not here: they end a
# simulation in any case.
ATTRIBUTES: dict[str, frozenset[str]] = {
    name: frozenset(attributes.split())
    for name, attributes in {
        "Response": "",
        "Connect": "action method",
        "ConversationRelay": """url language ttsLanguage transcriptionLanguage ttsProvider voice transcriptionProvider
            speechModel profanityFilter dtmfDetection welcomeGreeting welcomeGreetingLanguage partialPrompts
            welcomeGreetingInterruptible interruptible preemptible hints intelligenceService conversationConfiguration
            reportInputDuringAgentSpeech elevenlabsTextNormalization interruptSensitivity debug
            backgroundNoiseReduction speechTimeout deepgramSmartFormat ignoreBackchannel events
            partialPromptOnHangup eotThreshold eagerEotThreshold asrSmartFormat ttsTextNormalization
            ttsLanguageTextNormalization elevenlabsLanguageTextNormalization includeInPrompt customerName
            applicationReconnect echoPromptFiltering turnDetection""",
        "Language": """code ttsProvider voice transcriptionProvider speechModel hints asrSmartFormat
            ttsTextNormalization ttsLanguageTextNormalization""",
        "Parameter": "name value",
        "Say": "voice loop language",
        "Pause": "length",
        "Play": "loop digits",
        "Hangup": "",
        "Reject": "reason",
        "Redirect": "method",
        "Dial": """action method timeout hangupOnStar timeLimit callerId record trim recordingStatusCallback
            recordingStatusCallbackMethod recordingStatusCallbackEvent answerOnBridge ringTone recordingTrack
            sequential referUrl referMethod events""",
        "Number": """sendDigits url method statusCallback statusCallbackEvent statusCallbackMethod byoc
            machineDetection amdStatusCallback amdStatusCallbackMethod machineDetectionTimeout""",
    }.items()
}
CHILDREN = {
    "Response": {"Connect", "Say", "Pause", "Play", "Hangup", "Reject", "Redirect", "Dial"},
    "Connect": {"ConversationRelay"},
    "ConversationRelay": {"Language", "Parameter"},
    "Dial": {"Number"},
}
VALUES: dict[str, tuple[str, ...]] = {
    "interruptible": INPUTS,
    "welcomeGreetingInterruptible": INPUTS,
    "reportInputDuringAgentSpeech": INPUTS,
    "interruptSensitivity": ("low", "medium", "high"),
    "ttsProvider": ("Google", "Amazon", "ElevenLabs"),
    "transcriptionProvider": ("Google", "Deepgram"),
    "elevenlabsTextNormalization": ("auto", "on", "off"),
    "ttsTextNormalization": ("auto", "on", "off"),
    "profanityFilter": BOOLEANS,
    "dtmfDetection": BOOLEANS,
    "partialPrompts": BOOLEANS,
    "preemptible": BOOLEANS,
    "deepgramSmartFormat": BOOLEANS,
    "ignoreBackchannel": BOOLEANS,
    "partialPromptOnHangup": BOOLEANS,
    "asrSmartFormat": BOOLEANS,
    "applicationReconnect": BOOLEANS,
    "echoPromptFiltering": BOOLEANS,
}
EVENTS = ("speaker-events", "tokens-played")


class Refused(Exception):
    """TwiML that Twilio cannot run: the caller hears an error and the phone call ends. `code`: Twilio's error code."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True)
class Verb:
    """An element with the attributes and the children that Twilio knows."""

    name: str
    attributes: Mapping[str, str]
    text: str
    children: tuple["Verb", ...]


@dataclass(frozen=True)
class Document:
    """verbs: what Twilio runs. warnings: what its debugger would report."""

    verbs: tuple[Verb, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Relay:
    """The settings of a ConversationRelay session, with Twilio's defaults."""

    url: str
    greeting: str = ""
    greeting_interruptible: str = "any"
    interruptible: str = "any"
    preemptible: bool = False
    report_input: str = "none"
    reads_keys: bool = False
    partial_prompts: bool = False
    tts_language: str = "en-US"
    transcription_language: str = "en-US"
    events: frozenset[str] = frozenset()
    parameters: Mapping[str, str] = field(default_factory=dict)


def read(body: str, content_type: str = "text/xml") -> Document:
    """The verbs of a reply to a webhook.

    Raises:
        Refused: it is not TwiML.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/plain" and body.strip():
        warning = f"a reply of type text/plain is read aloud: {body.strip()[:80]!r}"
        return Document((Verb("Say", {}, body.strip(), ()),), (warning,))
    if kind not in TYPES and body.strip():
        raise Refused(12300, f"the content type must be text/xml, and is {content_type!r}")
    if len(body.encode()) > MOST_BYTES:
        raise Refused(11750, f"the TwiML has more than {MOST_BYTES} bytes")
    if not body.strip():
        return Document((), ())
    if re.search(r"<!(DOCTYPE|ENTITY)", body, re.IGNORECASE):
        raise Refused(12100, "the TwiML declares a document type")
    try:
        root = ElementTree.fromstring(body.strip())  # noqa: S314 - it declares no entities
    except ElementTree.ParseError as problem:
        raise Refused(12100, f"the TwiML cannot be parsed: {problem}") from None
    if root.tag != "Response":
        raise Refused(12102, f"the first element must be <Response>, and is <{root.tag}>")
    warnings: list[str] = []
    return Document(_read_element(root, warnings).children, tuple(warnings))


def _read_element(element: ElementTree.Element, warnings: list[str]) -> Verb:
    name = element.tag
    known = {key: value for key, value in element.attrib.items() if key in ATTRIBUTES[name]}
    warnings.extend(
        f"12200: <{name}> has no attribute {key!r}: it is ignored" for key in element.attrib if key not in known
    )
    if name == "ConversationRelay":
        warnings.extend(_wrong_values(known))
    children = []
    for child in element:
        if child.tag in CHILDREN.get(name, ()):
            children.append(_read_element(child, warnings))
        else:
            warnings.append(f"12200: <{name}> takes no <{child.tag}>: it is ignored")
    return Verb(name, known, (element.text or "").strip(), tuple(children))


def _wrong_values(attributes: Mapping[str, str]) -> Iterator[str]:
    for name, value in attributes.items():
        allowed = VALUES.get(name)
        if allowed and value not in allowed:
            yield f"64106: {name}={value!r}: it must be one of {', '.join(allowed)}; the default is used"
    for event in attributes.get("events", "").split():
        if event not in EVENTS:
            yield f"64106: events: {event!r} is not an event: they are {', '.join(EVENTS)}"


def relay_of(connect: Verb) -> Relay:
    """The session that a <Connect> starts.

    Raises:
        Refused: it has no <ConversationRelay>, or no usable `url`.
    """
    noun = next((child for child in connect.children if child.name == "ConversationRelay"), None)
    if noun is None:
        raise Refused(12200, "<Connect> has no <ConversationRelay>, and the simulator plays nothing else")
    given = {name: value for name, value in noun.attributes.items() if value in VALUES.get(name, (value,))}
    url = given.get("url", "")
    language = given.get("language", "en-US")
    return Relay(
        url=_checked_url(url),
        greeting=given.get("welcomeGreeting", ""),
        greeting_interruptible=_inputs(given, "welcomeGreetingInterruptible", "any"),
        interruptible=_inputs(given, "interruptible", "any"),
        preemptible=given.get("preemptible") == "true",
        report_input=_inputs(given, "reportInputDuringAgentSpeech", "none"),
        reads_keys=given.get("dtmfDetection") == "true",
        partial_prompts=given.get("partialPrompts") == "true",
        tts_language=given.get("ttsLanguage", language),
        transcription_language=given.get("transcriptionLanguage", language),
        events=frozenset(given.get("events", "").split()),
        parameters={
            child.attributes.get("name", ""): child.attributes.get("value", "")
            for child in noun.children
            if child.name == "Parameter"
        },
    )


def _inputs(given: Mapping[str, str], name: str, default: str) -> str:
    value = given.get(name, default)
    return MEANINGS.get(value, value)


def _checked_url(url: str) -> str:
    """Twilio connects to wss only; on this machine, where nothing has a certificate, the simulator also takes ws."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise Refused(64101, f"<ConversationRelay> needs the url of a WebSocket, and has {url!r}")
    if parts.scheme != "wss" and not (parts.scheme == "ws" and is_loopback(parts.hostname)):
        raise Refused(64101, f"<ConversationRelay> takes a wss:// url, and has {url!r}")
    return url


def is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
