"""What a paid request consists of: the provider, the request, the reply, and its id."""

import base64
import hashlib
import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from parley.domain.model import Model, Received, Text, is_blank


class Provider(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    ELEVENLABS = "elevenlabs"
    LOCAL = "local"
    WHISPER = "whisper"


# Those that hear: the vendor first, then this machine. It is not a remote service, so it is not pinged.
HEARING_PROVIDERS = (Provider.ELEVENLABS, Provider.WHISPER)
REMOTE_PROVIDERS = tuple(provider for provider in Provider if provider is not Provider.WHISPER)
# The providers that answer chats, in the order in which they are tried where nothing else decides.
ChatProviderName = Literal["anthropic", "openai", "local"]
CHAT_PROVIDERS = tuple(Provider(name) for name in get_args(ChatProviderName))


def _check_chat_provider(provider: Provider) -> Provider:
    if provider not in CHAT_PROVIDERS:
        raise ValueError(f"{provider.value} does not answer chats: use {', '.join(CHAT_PROVIDERS)}")
    return provider


ChatProvider = Annotated[Provider, AfterValidator(_check_chat_provider)]

# 30 days: a job that waits longer has probably been forgotten.
MAX_WAIT_LIMIT_SECONDS = 30 * 86400
# 20 MB in base64.
MOST_IMAGE_CHARACTERS = 4 * 20_000_000 // 3
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
ANY_OBJECT: dict[str, Any] = {"type": "object"}


class ByName(Model):
    """The only provider, and its only model, that may serve a job; None for any."""

    provider: ChatProvider | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _model_needs_provider(self) -> Self:
        if self.model is not None and self.provider is None:
            raise ValueError("model needs a provider: set both, or neither")
        return self


# Fields that say which type a value has.
TYPE_FIELDS = ("kind", "type")


class Sparse(Model):
    """A model whose JSON has no field at its default: a prompt has many messages, and few fields of each are set.

    So a new optional field changes no fingerprint of what was asked before.
    """

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler):  # without a type, which would be the schema
        fields = type(self).model_fields
        return {
            name: value
            for name, value in serialize(self).items()
            if name in TYPE_FIELDS or getattr(self, name) != fields[name].default
        }


class TextPart(Model):
    """Text, between other parts of a message."""

    type: Literal["text"] = "text"
    text: Text


class ImagePart(Sparse):
    """An image of a user's message: its bytes, or its address. Parley passes an address on and never reads from it.

    media_type, data: the format, and the bytes in base64; at most 20 MB.
    url: the address, beginning with https:// or http://.
    detail: how precisely OpenAI looks at the image, which decides its price; other vendors have no such choice.
    """

    type: Literal["image"] = "image"
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"] | None = None
    data: str | None = Field(default=None, min_length=1, max_length=MOST_IMAGE_CHARACTERS, repr=False)
    url: Text | None = Field(default=None, max_length=8_000, pattern=r"^https?://\S+$")
    detail: Literal["auto", "low", "high"] | None = None

    @model_validator(mode="after")
    def _bytes_or_address(self) -> Self:
        if (self.data is None) == (self.url is None) or (self.data is None) != (self.media_type is None):
            raise ValueError("give either the data with its media_type, or the url")
        if self.data is not None:
            _check_base64(self.data)
        return self


def _check_base64(data: str) -> None:
    try:
        base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"data is not base64: {error}") from None


class ToolCall(Model):
    """A call of a tool that a model asks for. The caller makes it, and sends its result in a message of role `tool`.

    arguments: the JSON text that the model wrote. Models make mistakes: check it before it is used.
    """

    id: Annotated[Text, Field(min_length=1, max_length=200)]
    name: Annotated[Text, Field(min_length=1, max_length=200)]
    arguments: Text


AS_TEXT, AS_PARTS, AS_TOKENS = "as text", "as parts", "as tokens"
# Pydantic names them in the place of an error, where they say nothing to a caller.
CONTENT_TAGS = frozenset((AS_TEXT, AS_PARTS, AS_TOKENS))
Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Content = Annotated[
    Annotated[Text, Tag(AS_TEXT)] | Annotated[tuple[Part, ...], Tag(AS_PARTS)],
    Discriminator(lambda content: AS_TEXT if isinstance(content, str) else AS_PARTS),
]


class Message(Sparse):
    """One message of a chat.

    role: `developer` is OpenAI's newer name for `system`; `tool` is the result of a tool call.
    content: a text, or parts; None for an assistant's message that only calls tools.
    tool_calls: the calls of an assistant's message. tool_call_id: the call that a `tool` message answers.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: Text | None = Field(default=None, min_length=1, max_length=200)

    @model_validator(mode="after")
    def _fields_belong_to_role(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a {self.role} message must have a content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a {self.role} message cannot have tool_calls: only an assistant calls tools")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id names the call that a tool message answers: give it there, and only there")
        if self.images and self.role != "user":
            raise ValueError(f"a {self.role} message cannot have images: put them into a user message")
        return self

    @property
    def is_system(self) -> bool:
        """Whether it instructs the model, and is not part of the conversation."""
        return self.role in ("system", "developer")

    @property
    def parts(self) -> tuple[TextPart | ImagePart, ...]:
        """The content as parts."""
        if isinstance(self.content, str):
            return (TextPart.model_construct(text=self.content),)
        return self.content or ()

    @property
    def text(self) -> str:
        """The text of the content."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of the content."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))

    @property
    def transcript(self) -> str:
        """The message as text alone, with a mark for each image and tool call."""
        calls = [f"[calls {call.name} with {call.arguments}]" for call in self.tool_calls]
        return " ".join([*filter(None, [self.text]), *["[image]"] * len(self.images), *calls])

    @property
    def is_blank(self) -> bool:
        """Whether a reader sees nothing of it: no text, no image, no tool call and no result of one."""
        return self.role != "tool" and not self.tool_calls and not self.images and is_blank(self.text)


def joined_turns(messages: Iterable[Message]) -> list[Message]:
    """The messages with neighbours of one role joined: vendors require alternating roles.

    Tool calls and their results stay messages of their own.
    """
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1].role == message.role and not _calls_tools(turns[-1]) and not _calls_tools(message):
            message = message.model_copy(update={"content": _joined(turns.pop(), message)})  # noqa: PLW2901
        turns.append(message)
    return turns


def _calls_tools(message: Message) -> bool:
    return bool(message.tool_calls) or message.role == "tool"


def _joined(one: Message, other: Message) -> str | tuple[TextPart | ImagePart, ...]:
    if one.images or other.images:
        return (*one.parts, *other.parts)
    return f"{one.text}\n\n{other.text}"


class Tool(Sparse):
    """A tool that the model may call.

    description: what it does and when to call it, for the model.
    parameters: a JSON schema of the arguments, of type object.
    strict: the model must follow the schema exactly, where the vendor can enforce it. An argument that may be missing
        may be null then.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")
    description: Text = ""
    parameters: dict[str, Any] = NO_PARAMETERS
    strict: bool = False


class NamedTool(Model):
    """The one tool that the model must call."""

    name: Text


ToolChoice = Literal["auto", "none", "required"] | NamedTool


class ChatContent(Sparse):
    """What is asked of any provider.

    response_schema: a JSON schema that the answer must follow. json_object: the answer must be any JSON object.
    tools: what the model may call. tool_choice: whether it must; None: as the vendor does, which is `auto`.
    parallel_tool_calls: False for at most one call in a reply; None: as the vendor does, which is several.
    """

    messages: tuple[Message, ...]
    schema_name: str = "reply"
    response_schema: dict[str, Any] | None = None
    json_object: bool = False
    tools: tuple[Tool, ...] = Field(default=(), max_length=128)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("messages")
    @classmethod
    def _calls_are_answered(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Check that each call is answered once, right after it. Every vendor requires it."""
        waiting: set[str] = set()
        for number, message in enumerate(messages):
            if message.role == "tool":
                if message.tool_call_id not in waiting:
                    raise ValueError(f"message {number} answers no call before it: check its tool_call_id")
                waiting.discard(message.tool_call_id)
            elif waiting:
                raise ValueError(f"message {number} comes before the answer to tool call {min(waiting)!r}")
            else:
                waiting = {call.id for call in message.tool_calls}
                if len(waiting) < len(message.tool_calls):
                    raise ValueError(f"message {number} has two tool calls with one id")
        if waiting:
            raise ValueError(f"tool call {min(waiting)!r} has no answer: add a message of role tool")
        return messages

    @field_validator("tools")
    @classmethod
    def _tools_have_names_of_their_own(cls, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        names = [tool.name for tool in tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"two tools have the name {twice!r}")
        return tools

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.json_object and self.response_schema is not None:
            raise ValueError("json_object and response_schema exclude each other: give one of them")
        names = [tool.name for tool in self.tools]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.name!r}, which is not one of the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, and there are no tools")
        return self

    @property
    def reply_schema(self) -> dict[str, Any] | None:
        """The JSON schema that an answer in text must follow; None for free text."""
        return ANY_OBJECT if self.json_object else self.response_schema


class Sampling(Sparse):
    """How a model chooses its words.

    temperature: 0 to 2. top_p: the share of the most likely tokens to choose from. None: the vendor's default.
    stop: texts before which the answer ends; at most four.
    seed: asks for the same answer each time; vendors promise nothing.
    """

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: tuple[Annotated[Text, Field(min_length=1, max_length=1_000)], ...] = Field(default=(), max_length=4)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)


class ChatRequest(ChatContent, Sampling):
    """A vendor-independent request for one LLM completion.

    max_tokens: the longest reply.
    begins_like_others: what comes before the last part of the last message begins other requests too. It is worth
    caching where a vendor caches what is marked.
    """

    kind: Literal["chat"] = "chat"
    max_tokens: int = Field(gt=0)
    begins_like_others: bool = False


class TranscriptionRequest(Model):
    """Speech to text with word times, speakers and audio events. `audio` is not part of the serialized request.

    channels: how many channels have a speaker of their own, and are transcribed each alone. 1: the voices are mixed.
    """

    kind: Literal["transcription"] = "transcription"
    audio_sha256: str
    audio_seconds: float = Field(gt=0)
    # Not in the fingerprint of a recording whose voices are mixed.
    channels: int = Field(default=1, ge=1, exclude_if=lambda number: number == 1)
    audio: bytes = Field(exclude=True, repr=False)


# Its audio is journaled: a minute of it has about two megabytes.
MOST_SPOKEN_CHARACTERS = 1000
Token = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
ToEmbed = Annotated[
    Annotated[Text, Field(min_length=1), Tag(AS_TEXT)]
    | Annotated[tuple[Token, ...], Field(min_length=1), Tag(AS_TOKENS)],
    Discriminator(lambda one: AS_TEXT if isinstance(one, str) else AS_TOKENS),
]


class Inputs(Model):
    """What is embedded.

    inputs: texts, or texts as the numbers of their tokens, which only the model's vendor can read.
    dimensions: the numbers of a vector; None: as many as the model has.
    """

    inputs: tuple[ToEmbed, ...] = Field(min_length=1, max_length=2048)
    dimensions: int | None = Field(default=None, gt=0)


class EmbeddingRequest(Inputs):
    """A vendor-independent request for one vector for each input."""

    kind: Literal["embedding"] = "embedding"


class SpeechRequest(Model):
    """Text to speech with one voice. `stability`, `similarity`: of the voice, 0 to 1."""

    kind: Literal["speech"] = "speech"
    text: Annotated[Text, Field(min_length=1, max_length=MOST_SPOKEN_CHARACTERS)]
    voice: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
    stability: float = Field(default=0.5, ge=0, le=1)
    similarity: float = Field(default=0.75, ge=0, le=1)


Request = ChatRequest | TranscriptionRequest | EmbeddingRequest | SpeechRequest


# A vendor transcribes a recording faster than it plays, also on a busy day. On this machine the model may be a large
# one, without a graphics card: a limit that it does not meet would begin again from the first second.
SECONDS_PER_AUDIO_SECOND, LOCAL_SECONDS_PER_AUDIO_SECOND = 0.5, 4.0


def longest_seconds(request: Request, timeout: float, provider: Provider) -> float:
    """How long one call may take: the timeout of a provider, and for a recording more by the length of its channels."""
    if not isinstance(request, TranscriptionRequest):
        return timeout
    each = LOCAL_SECONDS_PER_AUDIO_SECOND if provider is Provider.WHISPER else SECONDS_PER_AUDIO_SECOND
    return timeout + request.audio_seconds * request.channels * each


# No context window is as large and no recording as long: a greater count is an error of the provider.
MOST_TOKENS, MOST_AUDIO_SECONDS = 100_000_000, 1_000_000
MOST_COUNTED = {
    "input_tokens": MOST_TOKENS,
    "cached_input_tokens": MOST_TOKENS,
    "cache_write_tokens": MOST_TOKENS,
    "output_tokens": MOST_TOKENS,
    "audio_seconds": MOST_AUDIO_SECONDS,
}


class Usage(Model):
    """Units that a provider counted. Input tokens include cached ones, also where the vendor counts them apart.

    `price_class`: what the vendor names as a reason for another price, such as `priority`; empty for the usual price.
    `is_known`: False where counts are missing or cannot be true (negative, not a number, absurdly large). All are 0
    then, and the cost is uncertain: the reply is paid for and must not be lost because of them.
    """

    input_tokens: int = Field(default=0, ge=0)
    cached_input_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    audio_seconds: float = Field(default=0, ge=0)
    price_class: Received = ""
    is_known: bool = True

    @model_validator(mode="before")
    @classmethod
    def _drop_impossible_counts(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        counts = cast("dict[str, Any]", given)
        limits = {name: most for name, most in MOST_COUNTED.items() if name in counts}
        if all(_is_possible(counts[name], most) for name, most in limits.items()):
            return counts
        return {name: value for name, value in counts.items() if name not in limits} | {"is_known": False}

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def _is_possible(count: object, most: int) -> bool:
    """Whether a provider can have counted this. NaN is not possible: every comparison with it is false."""
    if isinstance(count, bool) or not isinstance(count, (int, float)):
        return False
    return 0 <= count <= most and (most != MOST_TOKENS or count == int(count))


class Finish(StrEnum):
    """Why a reply ended: `tool_calls` where the model waits for the results of its calls.

    `cancelled`: the readers of its stream left, so its request was cancelled.
    """

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class ChatReply(Sparse):
    """A whole completion.

    model: the name that the reply gives; the simulator's begins with `simulator/`.
    continues: the text begins with that of earlier replies, whose streams broke. The usage is that of the last reply.
    forgotten: the text was removed from the journal, as its user asked or by its age.
    """

    kind: Literal["chat"] = "chat"
    text: Received
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish
    usage: Usage
    model: Received
    provider_request_id: Received = ""
    continues: bool = False
    forgotten: bool = False


class SpokenWord(Model):
    """One word of a transcription: times in seconds from the start, `confidence` between 0 and 1."""

    text: Received
    start: float
    end: float
    speaker: Received = ""
    confidence: float = Field(default=1.0, ge=0, le=1)
    kind: Literal["word", "audio_event"] = "word"


class TranscriptionReply(Model):
    """What was heard. `forgotten`: the words were removed from the journal, as their user asked or by their age."""

    kind: Literal["transcription"] = "transcription"
    words: tuple[SpokenWord, ...]
    forgotten: bool = False
    language: Received = ""
    usage: Usage
    model: Received
    provider_request_id: Received = ""


def _as_base64(audio: bytes) -> str:
    return base64.b64encode(audio).decode("ascii")


def _from_base64(audio: object) -> object:
    return base64.b64decode(audio, validate=True) if isinstance(audio, str) else audio


class EmbeddingReply(Model):
    """A vector for each input, in their order, packed as in `parley.domain.vectors`."""

    kind: Literal["embedding"] = "embedding"
    vectors: tuple[str, ...] = Field(repr=False)
    usage: Usage
    model: Received
    provider_request_id: Received = ""


class SpeechReply(Model):
    """Audio of a text: PCM of 16 bits, mono, with `sample_rate` samples a second; base64 in JSON.

    usage: the vendor counts the characters of the text, which are the input tokens here.
    """

    kind: Literal["speech"] = "speech"
    audio: Annotated[bytes, BeforeValidator(_from_base64), PlainSerializer(_as_base64, when_used="json")] = Field(
        repr=False
    )
    sample_rate: int = Field(gt=0)
    usage: Usage
    model: Received
    provider_request_id: Received = ""


Reply = Annotated[ChatReply | TranscriptionReply | EmbeddingReply | SpeechReply, Field(discriminator="kind")]


def request_id(job_key: str, *parts: str) -> str:
    """The id of one logical step of a job: `{job_key}/{step}`, with further parts separated by `/`.

    A pure function of the step's place in the job, so that retries, replays and fallback attempts share the id.
    """
    return "/".join((job_key, *parts))


def fingerprint(request: Request) -> str:
    """SHA-256 of the logical request. Provider and model are left out: a fallback sends the same request."""
    canonical = json.dumps(request.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
