"""Callers who withhold their number: two of them may be different persons."""

# What Twilio sends in place of a number: such a word, or the keys of a telephone that spell it, as in +266696687.
WITHHELD = ("anonymous", "restricted", "blocked", "unknown", "unavailable", "private", "withheld")
KEYS = str.maketrans("abcdefghijklmnopqrstuvwxyz", "22233344455566677778889999")
SPELLED = frozenset(word.translate(KEYS) for word in WITHHELD)


def is_withheld(caller: str) -> bool:
    """Whether a number, or the address of one who calls by SIP, does not say who calls."""
    name = caller.strip().lower().removeprefix("sip:").removeprefix("client:").partition("@")[0]
    return not name or name in WITHHELD or name.removeprefix("+") in SPELLED
