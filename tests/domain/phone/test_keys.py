"""Secret entries after a lost session: what is secret there, and what may be open where that is not known."""

from typing import Any

import pytest

from parley.domain.phone.keys import AGAIN, Entered, Keys, OpenEntry, possible_entry, sealed
from parley.domain.phone.settings import KeyAction, NumberSettings

TOKEN, PIN = "token", "40718253"
ENTER = {"kind": "enter", "name": "PIN", "secret": True, "text": "Enter your PIN, please.", "expected": "pin"}
SAY = {"kind": "say", "text": "Which formats can I export?"}


def number(*entries: dict[str, Any]) -> NumberSettings:
    menu = {"1": SAY, **{str(key): entry for key, entry in enumerate(entries, start=2)}}
    return NumberSettings.model_validate({"keys": menu})


def keys_of(settings: NumberSettings, entry: OpenEntry | None = None) -> Keys:
    keys = Keys(settings, {"pin": sealed(PIN, TOKEN)}, TOKEN)
    if entry is not None:
        keys.resume(entry)
    return keys


def press(keys: Keys, pressed: str) -> Entered | KeyAction | None:
    return [keys.press(key) for key in pressed][-1]


def test_an_open_entry_has_no_digits():
    settings = number(ENTER)
    keys = keys_of(settings)
    assert keys.open_entry is None
    keys.begin(settings.keys["2"])
    press(keys, PIN[:3])
    assert keys.open_entry == OpenEntry(entry=settings.keys["2"])
    assert PIN[:3] not in keys.open_entry.model_dump_json()
    press(keys, "#")
    assert keys.open_entry == OpenEntry(entry=settings.keys["2"], is_judged=True)
    press(keys, f"{PIN}#")
    assert keys.open_entry is None


@pytest.mark.parametrize("is_judged", [False, True])
def test_the_first_digits_after_a_lost_session_are_secret_also_one_of_the_menu(is_judged: bool):
    settings = number(ENTER)
    entry = OpenEntry(entry=settings.keys["2"], is_judged=is_judged)
    keys = keys_of(settings, entry)
    assert keys.open_entry == entry
    assert press(keys, "1#") == Entered(f"(The caller entered the PIN by keys. It is wrong. {AGAIN})")
    assert press(keys, "1#") == settings.keys["1"]
    assert press(keys, f"{PIN}#") == Entered("(The caller entered the PIN by keys. It is right.)")


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ((), None),
        (({**ENTER, "secret": False, "expected": None},), None),
        ((ENTER,), "PIN"),
        ((ENTER, {**ENTER, "name": "code"}), ""),
    ],
)
def test_where_it_is_not_known_the_entry_of_the_number_may_be_open(entries: tuple[dict[str, Any], ...], name: str):
    entry = possible_entry(number(*entries))
    assert (entry.entry.name if entry else None) == name
    if entry is not None:
        text = press(keys_of(number(*entries), entry), "407#")
        assert isinstance(text, Entered)
        assert "407" not in text.text
