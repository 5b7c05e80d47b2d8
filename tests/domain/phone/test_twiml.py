"""TwiML takes only the attributes that Twilio knows, and escapes what callers can influence."""

from xml.etree import ElementTree

import pytest

from parley.domain.phone import twiml
from parley.domain.phone.settings import NumberSettings, SpokenLanguage, language_attributes, relay_attributes


@pytest.mark.parametrize(
    ("element", "attribute"),
    [
        ("ConversationRelay", "interruptByDtmf"),
        ("ConversationRelay", "welcomegreeting"),
        ("Language", "tts_provider"),
        ("Parameter", "key"),
        ("Connect", "Action"),
    ],
)
def test_an_attribute_that_twilio_would_ignore_is_an_error(element: str, attribute: str):
    with pytest.raises(twiml.UnknownAttribute, match=attribute):
        twiml.element(element, **{attribute: "x"})


def test_every_attribute_of_the_settings_is_one_of_twilios():
    language = SpokenLanguage(code="es-ES", voice="v", tts_provider="Google")
    relay = twiml.relay(
        relay_attributes(NumberSettings(languages=(language,)), "wss://a/b", greet=True),
        languages=[language_attributes(language)],
        parameters={"a": "b"},
    )
    assert set(relay.attrib) <= twiml.ATTRIBUTES["ConversationRelay"]


def test_texts_are_escaped():
    hostile = "</Say><Dial>+15550199</Dial>\0&\"'"
    document = twiml.response(twiml.say(hostile), twiml.relay({"hints": hostile}, parameters={hostile: hostile}))
    root = ElementTree.fromstring(document)
    assert [element.tag for element in root.iter()] == ["Response", "Say", "ConversationRelay", "Parameter"]
    assert root[0].text == hostile.replace("\0", "")


def test_what_is_empty_is_left_out():
    assert twiml.element("ConversationRelay", voice="", hints=None, dtmfDetection=False).attrib == {
        "dtmfDetection": "false"
    }
