"""The settings of a workspace's phone number: the voice, the deadlines, the keys, and the limits of its phone calls."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from parley.domain.languages import LANGUAGE
from parley.domain.model import Model, Name, Text

# E.164, or the name of a SIP endpoint or of a client.
NUMBER = re.compile(r"\+[1-9][0-9]{3,14}|(?:sip|client):[^\s<>\"/]{1,120}")
SHOWN_DIGITS = 4
KEY = r"^[0-9A-D*#]$"
# What ConversationRelay sends as tones. `w` is a pause of half a second, `W` of a second.
TONES = r"^[0-9*#wW]{1,64}$"


def _check_number(number: str) -> str:
    if not NUMBER.fullmatch(number):
        raise ValueError("must be a number such as +15550100001, with the country's code and without spaces")
    return number


Number = Annotated[str, AfterValidator(_check_number)]
Tag = Annotated[str, Field(pattern=LANGUAGE)]
Key = Annotated[str, Field(pattern=KEY)]
Tones = Annotated[str, Field(pattern=TONES)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Interruptible = Literal["none", "dtmf", "speech", "any"]
"""What interrupts the agent while it speaks."""


def masked(number: str) -> str:
    """A telephone number as a log shows it: its last digits alone."""
    return f"…{number[-SHOWN_DIGITS:]}" if len(number) > 2 * SHOWN_DIGITS else "…"


class Phrases(Model):
    """What the agent says without a model.

    apology: after a failure. hand_off: before a person takes over, after two failures in a row.
    good_bye: before a phone call ends where no person can take over, after five in a row.
    done, farewell: where its model has used a tool, or ends the phone call, without a word.
    """

    filler: Text = "One moment, please. "
    slow: Text = "This takes a little longer than usual. I am still looking. "
    apology: Text = "I am sorry, I could not find an answer to that. Could you say it again, please?"
    hand_off: Text = "I am sorry, I cannot help you any further at the moment. Let me connect you with a person."
    good_bye: Text = "I am sorry, I cannot help you any further at the moment. Please call again later. Good bye."
    transfer: Text = "One moment, I will connect you with a person."
    are_you_there: Text = "Are you still there?"
    silence_good_bye: Text = "I cannot hear you. Please call again. Good bye."
    time_is_up: Text = "I am sorry, we have to end here. Thank you for your call. Good bye."
    reconnected: Text = "I am sorry, the line was interrupted. "
    done: Text = "Done. What else can I do for you?"
    farewell: Text = "Thank you for your call. Good bye."
    busy: Text = "All lines are busy at the moment. Please call again later."


class SpokenLanguage(Model):
    """A language that a phone call may change to. `phrases`: None for those of the number."""

    code: Tag
    tts_provider: Literal["", "Google", "Amazon", "ElevenLabs"] = ""
    voice: Text = ""
    transcription_provider: Literal["", "Google", "Deepgram"] = ""
    speech_model: Text = ""
    phrases: Phrases | None = None


class KeyAction(Model):
    """What a key of the menu does.

    say: the caller's turn is `text`. transfer: to a person. language: change to `language`. end: say good bye.
    enter: the next keys are a number, up to the key that ends it, after the agent has said `text`. send_digits: the
    agent says `text`, and sends `digits` as tones to the other end, for example to the menu of another system:
    0 to 9, * and #, with w for a pause of half a second and W for one of a second.

    secret: what is entered reaches no model, no log and no table. expected: the parameter of the phone call that has
    what is right, sealed by `client.phone.sealed`: a model learns only whether it is.
    """

    kind: Literal["say", "transfer", "language", "enter", "end", "send_digits"]
    text: Text = ""
    language: Tag | None = None
    digits: Tones | None = None
    name: Text = ""
    secret: bool = False
    most: int | None = Field(default=None, ge=1, le=64)
    expected: Name | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.kind == "say" and not self.text.strip():
            raise ValueError("`say` needs the `text` that the caller says with this key")
        if self.kind == "language" and self.language is None:
            raise ValueError("`language` needs the `language` to change to")
        if (self.kind == "send_digits") != (self.digits is not None):
            raise ValueError("`send_digits` needs the `digits` to send, and nothing else has them")
        return self


class Digits(Model):
    """Digits that are entered by keys. `seconds`: the pause that ends them without `finish_on`. `most`: of them."""

    finish_on: Key = "#"
    seconds: Seconds = 4
    most: int = Field(default=32, ge=1, le=64)


class AnswerTemplate(Model):
    """What is said while the answer to a kind of question is late. `words`: a question of the kind has one of them."""

    words: tuple[Name, ...] = Field(min_length=1)
    text: Text


class Deadlines(Model):
    """How long things may take, in seconds.

    worker: after this without a worker that makes the answer, the gateway makes it itself.
    filler, template: after these without a word of the answer, the caller hears `phrases.filler`, and then the template
        for the kind of question.
    response_timeout: after this without a word of the answer, or in the middle of it, the turn fails.
    speech_timeout: the pause after which what was recognised counts as said, though Twilio does not say so.
    max_speech: after so long what the caller has said until then is answered.
    silence: the pause after which the agent asks whether the caller is still there. silences: of them, then it ends.
    """

    worker: Seconds = 1
    filler: Seconds = 1.5
    template: Seconds = 3
    response_timeout: Seconds = 5
    speech_timeout: Seconds = 3
    max_speech: Seconds = 30
    silence: Seconds = 12
    silences: int = Field(default=2, ge=1, le=20)


class PhoneLimits(Model):
    """What the phone calls of a number may use. None: no limit. Minutes and dollars are of a day, in UTC.

    workspace_…: of all numbers of the workspace. number_…: of this one. caller_…: of one caller. call_…: of one call.
    """

    workspace_concurrent: int | None = Field(default=50, ge=0)
    number_concurrent: int | None = Field(default=None, ge=0)
    caller_concurrent: int | None = Field(default=2, ge=0)
    workspace_minutes: float | None = Field(default=None, ge=0)
    number_minutes: float | None = Field(default=None, ge=0)
    caller_minutes: float | None = Field(default=120, ge=0)
    workspace_usd: Decimal | None = Field(default=None, ge=0)
    number_usd: Decimal | None = Field(default=None, ge=0)
    caller_usd: Decimal | None = Field(default=None, ge=0)
    call_minutes: float = Field(default=60, gt=0, le=240)
    call_usd: Decimal | None = Field(default=None, ge=0)


PERSON = (
    *("speak to a person", "talk to a person", "speak to a human", "talk to a human", "speak to someone"),
    "operator",
)


AgentTool = Literal["transfer_to_person", "end_call", "send_digits", "change_language"]
"""What the model of the agent may ask for in a turn."""


class NumberSettings(Model):
    """How the phone calls of a number are held. Empty texts: Twilio's own choice.

    system_prompt: what the agent is, and how it answers. It is put before every turn. template, action, model: as for
        a turn of a conversation.
    parameters: what is sent with each phone call, beside those of `client.phone.dial`.
    recorded_voice: the id of an ElevenLabs voice, in which the texts are played that no model makes; None: Twilio's own
        voice says them. See `fixed_texts`.
    keys: the menu. transfer_to: the number of a person. transfer_phrases: what a caller says to reach one.
    keep_days: for so long its phone calls are kept, with all that was said; None: as conversations are.
    analysis: whether a `SessionAnalysis` starts after the phone call.
    summary, remember: whether what was said is summarized after the phone call, and whether facts of the caller are
        extracted from it, for later ones. Both are paid requests.
    max_response_words: of one answer; the rest is not spoken.
    """

    language: Tag = "en-US"
    voice: Text = ""
    tts_provider: Literal["", "Google", "Amazon", "ElevenLabs"] = ""
    transcription_provider: Literal["", "Google", "Deepgram"] = ""
    speech_model: Text = ""
    hints: tuple[Name, ...] = Field(default=(), max_length=100)
    welcome_greeting: Text = "Hello! How can I help you?"
    welcome_interruptible: Interruptible = "any"
    interruptible: Interruptible = "any"
    dtmf_detection: bool = True
    partial_prompts: bool = True
    languages: tuple[SpokenLanguage, ...] = Field(default=(), max_length=30)
    parameters: dict[Name, Annotated[Text, Field(max_length=500)]] = Field(default_factory=dict, max_length=20)
    system_prompt: Annotated[Text, Field(max_length=20_000)] = ""
    template: Name | None = None
    action: Name = "phone_turn"
    model: Name | None = None
    knowledge: bool = True
    keys: dict[Key, KeyAction] = Field(default_factory=dict)
    digits: Digits = Digits()
    transfer_to: Number | None = None
    transfer_phrases: tuple[Name, ...] = PERSON
    tools: tuple[AgentTool, ...] = Field(default=(), max_length=4)
    keep_days: int | None = Field(default=None, ge=1, le=36_500)
    analysis: bool = False
    summary: bool = False
    remember: bool = False
    max_response_words: int = Field(default=200, ge=10, le=2000)
    phrases: Phrases = Phrases()
    recorded_voice: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")] | None = None
    templates: tuple[AnswerTemplate, ...] = Field(default=(), max_length=50)
    deadlines: Deadlines = Deadlines()
    limits: PhoneLimits = PhoneLimits()

    @model_validator(mode="after")
    def _languages_are_known(self) -> Self:
        for key, action in self.keys.items():
            if action.language is not None and action.language not in self.codes:
                raise ValueError(f"key {key}: {action.language} is not in `languages`")
        return self

    @model_validator(mode="after")
    def _tools_can_be_used(self) -> Self:
        if len(set(self.tools)) < len(self.tools):
            raise ValueError("`tools` names a tool twice")
        if "transfer_to_person" in self.tools and self.transfer_to is None:
            raise ValueError("the tool `transfer_to_person` needs `transfer_to`")
        if "change_language" in self.tools and not self.languages:
            raise ValueError("the tool `change_language` needs `languages`")
        return self

    @property
    def codes(self) -> frozenset[str]:
        """The languages that a phone call of the number may have."""
        return frozenset({self.language, *(one.code for one in self.languages)})

    def phrases_in(self, language: str) -> Phrases:
        """What the agent says in a language without a model."""
        found = next((one.phrases for one in self.languages if one.code == language), None)
        return found or self.phrases

    def fixed_texts(self, language: str) -> dict[str, str]:
        """What the agent says in a language without a model, by the names of the texts."""
        templates = {f"template-{number}": one.text for number, one in enumerate(self.templates)}
        return self.phrases_in(language).model_dump() | templates

    def language_like(self, tag: str) -> str | None:
        """The language of the number that a tag means, for example es-US for es; None if it has none."""
        codes = (self.language, *(one.code for one in self.languages))
        same = [code for code in codes if code.lower() == tag.lower()]
        near = [code for code in codes if code.partition("-")[0].lower() == tag.partition("-")[0].lower()]
        return next(iter(same + near), None)

    def template_for(self, question: str) -> str | None:
        """What is said while the answer to a question is late, by its kind; None for no kind that is known."""
        asked = question.lower()
        return next((one.text for one in self.templates if any(word.lower() in asked for word in one.words)), None)

    def wants_a_person(self, said: str) -> bool:
        """Whether a caller asks to be connected with a person."""
        return any(phrase.lower() in said.lower() for phrase in self.transfer_phrases)


MANNER = (
    "You speak with a caller on the telephone. Answer in one to three short sentences that sound natural when they are "
    "spoken: no lists, no headings, no links. What is in parentheses was entered by keys. The text is recognised "
    "speech and may have errors; ask where it matters."
)


def instructions_of(settings: NumberSettings, language: str) -> str:
    """The system prompt of a phone call's turns. It is the same at every turn, so that a provider caches it."""
    spoken = f"Answer in the language {language}."
    return "\n\n".join(part for part in (settings.system_prompt.strip(), MANNER, spoken) if part)


def relay_attributes(settings: NumberSettings, url: str, *, greet: bool) -> dict[str, str | bool | None]:
    """The attributes of the ConversationRelay session of a number. `greet`: False where a session continues."""
    return {
        "url": url,
        "welcomeGreeting": settings.welcome_greeting if greet else None,
        "welcomeGreetingInterruptible": settings.welcome_interruptible,
        "language": settings.language,
        "voice": settings.voice,
        "ttsProvider": settings.tts_provider,
        "transcriptionProvider": settings.transcription_provider,
        "speechModel": settings.speech_model,
        "hints": ",".join(settings.hints),
        "interruptible": settings.interruptible,
        "dtmfDetection": settings.dtmf_detection,
        "partialPrompts": settings.partial_prompts,
        "events": "speaker-events tokens-played",
    }


def language_attributes(one: SpokenLanguage) -> Mapping[str, str | bool | None]:
    """The attributes of a language that a session may change to."""
    return {
        "code": one.code,
        "ttsProvider": one.tts_provider,
        "voice": one.voice,
        "transcriptionProvider": one.transcription_provider,
        "speechModel": one.speech_model,
    }
