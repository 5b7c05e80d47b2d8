"""Figures of a run at a glance, and the quote of a session."""

import pytest

from parley.domain.auto_analyze.contract import LabelCount, LabelKind
from parley.domain.auto_analyze.overview import QUOTE_CHARACTERS, quote_of
from parley.domain.chat import ChatSession
from tests.report.runs import overview_of, sessions_of


def session(*texts: str, role: str = "user") -> ChatSession:
    messages = [{"role": "bot", "text": "Invoice? I can help."}, *({"role": role, "text": text} for text in texts)]
    return ChatSession.model_validate({"session_id": "a", "user_id": "u", "containment": "agent", "messages": messages})


@pytest.mark.parametrize(
    ("texts", "label", "quote"),
    [
        (("Hello", "My INVOICE is wrong", "An invoice, really"), "wrong invoice", "My INVOICE is wrong"),
        (("Hello", "Bye"), "wrong invoice", "Hello"),
        (("  Hello ", ""), None, "Hello"),
        ((), "wrong invoice", ""),
    ],
)
def test_a_quote_is_what_the_user_wrote(texts: tuple[str, ...], label: str | None, quote: str):
    assert quote_of(session(*texts), label) == quote


def test_words_of_agents_are_not_quoted_and_long_ones_are_cut():
    assert quote_of(session("wrong invoice", role="agent"), "wrong invoice") == ""
    quote = quote_of(session("invoice " * 1000), "invoice")
    assert (len(quote), quote[-1]) == (QUOTE_CHARACTERS, "…")


def test_figures_of_intents():
    counts = {"billing": 60, "Billing!": 1, "log-in": 20, "log in": 18, "rare": 1}
    labels = [LabelCount(kind=LabelKind.INTENT, label=name, sessions=count) for name, count in counts.items()]
    other = LabelCount(kind=LabelKind.TRANSFER_REASON, label="x", sessions=100)
    run = overview_of(sessions_of(100), labels=(*labels, other))
    assert run.spelled_alike == 2
    assert [line.label for line in run.catch_alls] == ["billing"]
