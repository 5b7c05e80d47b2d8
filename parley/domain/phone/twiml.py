"""TwiML: what Twilio does next with a phone call.

Twilio ignores an attribute that it does not know, so that a misspelled one has no effect and shows no error. Here an
element takes only the attributes that Twilio documents.
"""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from parley.domain.model import UNSTORABLE

CONTENT_TYPE = "text/xml"
ATTRIBUTES: Mapping[str, frozenset[str]] = {
    name: frozenset(attributes.split())
    for name, attributes in {
        "Connect": "action method",
        "ConversationRelay": """url welcomeGreeting welcomeGreetingInterruptible language ttsLanguage
            transcriptionLanguage ttsProvider voice transcriptionProvider speechModel interruptible
            reportInputDuringAgentSpeech preemptible dtmfDetection partialPrompts hints events
            elevenlabsTextNormalization interruptSensitivity""",
        "Language": "code ttsProvider voice transcriptionProvider speechModel",
        "Parameter": "name value",
        "Say": "voice language",
        "Pause": "length",
        "Redirect": "method",
        "Dial": "action method callerId timeout timeLimit",
        "Number": "",
        "Reject": "reason",
        "Hangup": "",
    }.items()
}
Attribute = str | bool | None


class UnknownAttribute(ValueError):
    """An attribute that Twilio does not know: it would be ignored."""


def response(*verbs: Element) -> str:
    """A document of these verbs; without one the phone call ends."""
    root = Element("Response")
    root.extend(verbs)
    return '<?xml version="1.0" encoding="UTF-8"?>' + tostring(root, encoding="unicode")


def connect(relay: Element, *, action: str) -> Element:
    """Hold a ConversationRelay session, and then ask `action` what follows."""
    verb = element("Connect", action=action, method="POST")
    verb.append(relay)
    return verb


def relay(
    attributes: Mapping[str, Attribute],
    *,
    languages: Sequence[Mapping[str, Attribute]] = (),
    parameters: Mapping[str, str],
) -> Element:
    """A ConversationRelay session.

    Args:
        attributes: by Twilio's names; one that is None or empty is left out.
        languages: that a session may change to, each with its attributes.
        parameters: what the first frame of the session brings back.
    """
    made = element("ConversationRelay", **attributes)
    made.extend(element("Language", **one) for one in languages)
    made.extend(element("Parameter", name=name, value=value) for name, value in parameters.items())
    return made


def say(text: str, *, language: str | None = None) -> Element:
    """Speak a text with Twilio's own voice."""
    made = element("Say", language=language)
    made.text = UNSTORABLE.sub("", text)
    return made


def pause(seconds: int) -> Element:
    """Wait in silence."""
    return element("Pause", length=str(seconds))


def redirect(url: str) -> Element:
    """Ask another address what follows."""
    made = element("Redirect", method="POST")
    made.text = url
    return made


def dial(number: str, *, caller_id: str | None) -> Element:
    """Connect the caller with another number."""
    made = element("Dial", callerId=caller_id)
    SubElement(made, "Number").text = number
    return made


def hang_up() -> Element:
    return element("Hangup")


def reject() -> Element:
    """Do not answer: the caller hears that the line is busy, and Twilio bills nothing."""
    return element("Reject", reason="busy")


def element(kind: str, /, **attributes: Attribute) -> Element:
    """An element of TwiML.

    Raises:
        UnknownAttribute: Twilio knows no such attribute of it.
    """
    if unknown := set(attributes) - ATTRIBUTES[kind]:
        raise UnknownAttribute(f"<{kind}> has no attribute {sorted(unknown)[0]!r}")
    made = Element(kind)
    for key, value in attributes.items():
        if value is not None and value != "":
            made.set(key, str(value).lower() if isinstance(value, bool) else UNSTORABLE.sub("", value))
    return made
