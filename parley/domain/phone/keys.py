"""Keys that a caller presses: the choices of a menu, and digits up to the key that ends them."""

import hmac
from typing import NamedTuple

from parley.domain.model import Model
from parley.domain.phone.settings import KeyAction, NumberSettings

RIGHT = "It is right."
AGAIN = "The line was interrupted before: the entry began again, and digits of before are lost."


class OpenEntry(Model):
    """A secret entry that is open, without its digits. `is_judged`: whether digits of it were judged."""

    entry: KeyAction
    is_judged: bool = False


def possible_entry(settings: NumberSettings) -> OpenEntry | None:
    """The secret entry that may be open where that is not known; None: the number has no secret entry."""
    entries = [action for action in settings.keys.values() if action.kind == "enter" and action.secret]
    if not entries:
        return None
    entry = entries[0] if len(entries) == 1 else KeyAction(kind="enter", secret=True)
    return OpenEntry(entry=entry, is_judged=True)


class Entered(NamedTuple):
    """Digits that a caller entered, as a model reads it. What is secret is not in it."""

    text: str


class Keys:
    """Collects the keys of one phone call. It never shows what is secret: not in a text, and not in its `repr`.

    A secret entry stays open until it is judged right, or until another one begins: the rest of digits that a pause has
    divided, and those of another try, are secret too.
    """

    def __init__(self, settings: NumberSettings, parameters: dict[str, str], token: str = "") -> None:
        """`parameters`: of the phone call; see `KeyAction.expected`. `token`: with which they are sealed."""
        self._settings, self._parameters, self._token = settings, parameters, token
        self._digits = ""
        self._entry: KeyAction | None = None
        # Whether digits of the entry were judged before: then a key of the menu, alone, is its choice again.
        self._is_judged = False
        # The entry as an earlier session left it, until digits of it end in this one.
        self._resumed: OpenEntry | None = None

    def __repr__(self) -> str:
        return f"Keys({len(self._digits)} pressed)"

    @property
    def is_open(self) -> bool:
        """Whether digits wait for their end."""
        return bool(self._digits)

    @property
    def is_secret(self) -> bool:
        """Whether what is entered now is secret."""
        return self._entry is not None and self._entry.secret

    @property
    def open_entry(self) -> OpenEntry | None:
        """The secret entry that is open; None without one."""
        if self._entry is None or not self._entry.secret:
            return None
        return self._resumed or OpenEntry(entry=self._entry, is_judged=self._is_judged)

    def resume(self, entry: OpenEntry) -> None:
        """Go on with an entry that was open when an earlier session was lost.

        The next digits are secret, also one that is a choice of the menu: it may be the rest of those before.
        """
        self.begin(entry.entry)
        self._resumed = entry

    def begin(self, entry: KeyAction) -> None:
        """The next keys are digits of this entry, also those that are choices of the menu."""
        self._digits, self._entry, self._is_judged, self._resumed = "", entry, False, None

    def press(self, key: str) -> Entered | KeyAction | None:
        """Take a key: the choice that it is, the digits that it ends, or None while digits are collected."""
        choice = self._settings.keys.get(key)
        if choice is not None and not self._digits and self._entry is None:
            return choice
        if key == self._settings.digits.finish_on:
            return self.finish()
        self._digits += key
        most = self._entry.most if self._entry is not None and self._entry.most else self._settings.digits.most
        return self.finish() if len(self._digits) >= most else None

    def finish(self) -> Entered | KeyAction | None:
        """End what is collected: digits, or one key that is a choice; None where no key was pressed."""
        digits, entry, self._digits = self._digits, self._entry, ""
        if not digits:
            return None
        if self._is_judged and digits in self._settings.keys:
            return self._settings.keys[digits]
        if entry is None or not entry.secret:
            self._entry = None
            return Entered(f"(The caller entered by keys: {digits})")
        judgement = self._judged(digits, entry)
        self._entry, self._is_judged = (None, False) if judgement == RIGHT else (entry, True)
        again, self._resumed = (f" {AGAIN}" if self._resumed else ""), None
        return Entered(f"(The caller entered the {entry.name or 'number'} by keys. {judgement}{again})")

    def _judged(self, digits: str, entry: KeyAction) -> str:
        """What may be said of secret digits: whether they are those that the phone call's parameters expect."""
        expected = self._parameters.get(entry.expected or "")
        if expected is None:
            return f"It has {len(digits)} digits, and is secret."
        is_right = hmac.compare_digest(sealed(digits, self._token).encode(), expected.encode())
        return RIGHT if is_right else "It is wrong."


def sealed(digits: str, token: str) -> str:
    """Digits as they can be compared, and not read: so few digits can be found from a hash without a key."""
    return hmac.digest(token.encode(), digits.encode(), "sha256").hex()
