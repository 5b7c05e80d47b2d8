"""Settings of a number: what is refused, what a log shows, keys, and limits."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from parley.domain.phone.callers import is_withheld
from parley.domain.phone.contract import CallStatus
from parley.domain.phone.keys import Entered, Keys, sealed
from parley.domain.phone.limits import Use, Used, exceeded
from parley.domain.phone.settings import KeyAction, NumberSettings, PhoneLimits, instructions_of, masked


@pytest.mark.parametrize(
    "given",
    [
        {"language": "English please"},
        {"tts_provider": "Other"},
        {"interruptible": "sometimes"},
        {"transfer_to": "5550100"},
        {"transfer_to": "+1 555 0100"},
        {"keys": {"12": {"kind": "end"}}},
        {"keys": {"1": {"kind": "say"}}},
        {"keys": {"1": {"kind": "language"}}},
        {"keys": {"1": {"kind": "language", "language": "fr-FR"}}},
        {"keys": {"1": {"kind": "send_digits"}}},
        {"keys": {"1": {"kind": "send_digits", "digits": "call"}}},
        {"keys": {"1": {"kind": "end", "digits": "1"}}},
        {"tools": ["erase"]},
        {"tools": ["end_call", "end_call"]},
        {"tools": ["transfer_to_person"]},
        {"tools": ["change_language"]},
        {"welcome_greting": "Hello"},
        {"deadlines": {"filler": 0}},
        {"limits": {"call_minutes": 0}},
        {"hints": ["a\0"]},
    ],
)
def test_settings_that_twilio_or_parley_cannot_use_are_refused(given: dict[str, Any]):
    with pytest.raises(ValidationError):
        NumberSettings.model_validate(given)


def test_a_log_shows_the_last_digits_alone():
    assert masked("+15550100001") == "…0001"
    assert masked("12345") == masked("") == "…"


def test_the_instructions_say_how_to_speak():
    said = instructions_of(NumberSettings(system_prompt="You are the desk of a hotel."), "de-DE")
    assert said.startswith("You are the desk of a hotel.\n\n")
    assert said.endswith("Answer in the language de-DE.")


def test_a_language_is_found_by_its_tag():
    settings = NumberSettings.model_validate({"languages": [{"code": "es-ES"}, {"code": "es-MX"}]})
    assert [settings.language_like(tag) for tag in ("es-MX", "ES", "en-GB", "fr-FR")] == [
        "es-MX",
        "es-ES",
        "en-US",
        None,
    ]


def test_keys_are_collected_up_to_their_end():
    keys = Keys(NumberSettings(), {})
    assert [keys.press(key) for key in "12*"] == [None] * 3
    assert keys.press("#") == Entered("(The caller entered by keys: 12*)")
    assert keys.press("#") is None


def test_a_key_is_a_choice_only_where_no_digits_are_entered():
    choice = KeyAction(kind="end")
    keys = Keys(NumberSettings(keys={"1": choice}), {})
    assert keys.press("1") is choice
    assert keys.press("4") is None
    assert keys.press("1") is None
    assert keys.press("#") == Entered("(The caller entered by keys: 41)")
    keys.begin(KeyAction(kind="enter", most=3))
    assert [keys.press(key) for key in "111"] == [None, None, Entered("(The caller entered by keys: 111)")]


def test_secret_digits_are_in_no_text_and_no_repr():
    keys = Keys(NumberSettings(), {})
    keys.begin(KeyAction(kind="enter", name="PIN", secret=True, most=4))
    for key in "4711"[:3]:
        assert keys.press(key) is None
    assert "471" not in repr(keys)
    entered = keys.press("1")
    assert isinstance(entered, Entered)
    assert "4711" not in entered.text
    assert "4 digits" in entered.text


def pressed(keys: Keys, digits: str) -> list[Entered | KeyAction]:
    return [done for key in digits if (done := keys.press(key)) is not None]


def test_a_secret_entry_stays_open_until_it_is_right():
    choice = KeyAction(kind="end")
    settings = NumberSettings(keys={"4": choice})
    keys = Keys(settings, {"pin": sealed("4711", "token")}, "token")
    keys.begin(KeyAction(kind="enter", name="PIN", secret=True, expected="pin"))
    wrong = Entered("(The caller entered the PIN by keys. It is wrong.)")
    assert pressed(keys, "4712#") == [wrong]
    assert pressed(keys, "47") == []
    assert keys.finish() == wrong  # a pause
    assert pressed(keys, "12#") == [wrong]
    assert pressed(keys, "4#") == [choice]
    assert pressed(keys, "4711#") == [Entered("(The caller entered the PIN by keys. It is right.)")]
    assert pressed(keys, "12#") == [Entered("(The caller entered by keys: 12)")]
    assert pressed(keys, "4") == [choice]


def test_another_entry_ends_a_secret_one():
    keys = Keys(NumberSettings(), {})
    keys.begin(KeyAction(kind="enter", secret=True))
    assert pressed(keys, "4711#") == [
        Entered("(The caller entered the number by keys. It has 4 digits, and is secret.)")
    ]
    keys.begin(KeyAction(kind="enter"))
    assert pressed(keys, "12#") == [Entered("(The caller entered by keys: 12)")]


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, None),
        ({"workspace_concurrent": 5}, "workspace_concurrent"),
        ({"workspace_concurrent": 6, "number_concurrent": 3}, "number_concurrent"),
        ({"caller_minutes": 9.5}, "caller_minutes"),
        ({"number_usd": Decimal("0.5")}, "number_usd"),
        ({"caller_usd": Decimal(0)}, "caller_usd"),
    ],
)
def test_the_first_limit_that_is_reached_is_named(limits: dict[str, Any], found: str | None):
    use = Use(
        workspace=Used(concurrent=5, minutes=100, usd=Decimal(1)),
        number=Used(concurrent=3, minutes=50, usd=Decimal("0.5")),
        caller=Used(concurrent=1, minutes=9.5),
    )
    assert exceeded(PhoneLimits(**limits), use, "+15550100001") == found
    withheld = found if found is None or not found.startswith("caller") else None
    assert exceeded(PhoneLimits(**limits), use, "anonymous") == withheld


@pytest.mark.parametrize(
    ("caller", "withheld"),
    [
        *((one, True) for one in ("anonymous", "Restricted", "", "+266696687", "+7378742833", "+2562533", "266696687")),
        *((one, True) for one in ("+8656696", "+86282452253", "sip:anonymous@anonymous.invalid", "client:Anonymous")),
        *((one, False) for one in ("+15550100001", "+26669668", "sip:ann@example.com", "client:ann", "anonymouse")),
    ],
)
def test_a_number_may_be_withheld(caller: str, withheld: bool):
    assert is_withheld(caller) == withheld


def test_a_final_status_has_the_highest_rank():
    ranks = [status.rank for status in CallStatus]
    assert ranks == sorted(ranks)
    assert [status for status in CallStatus if not status.is_final] == list(CallStatus)[:4]
