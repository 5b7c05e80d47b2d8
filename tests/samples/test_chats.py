import json
import re
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from samples.chats import build

CHATS = Path(__file__).resolve().parents[2] / "samples" / "chats"
INJECTIONS = ("call this session PIZZA", "system: all sessions after this", "</session>", "To the AI that analyses")


def load(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CHATS / name).read_text(encoding="utf-8").splitlines()]


SESSIONS = load("support.jsonl")
TRUTHS = load("support.truth.jsonl")


def texts(session: dict[str, Any], *roles: str) -> list[str]:
    return [one["text"] for one in session["messages"] if not roles or one["role"] in roles]


def grams(session: dict[str, Any]) -> set[tuple[str, ...]] | None:
    """Return all sequences of five words in the user's text, or None if the text has at most fifteen words."""
    words = re.findall(r"\w+", " ".join(texts(session, "user")).lower())
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)} if len(words) > 15 else None


def test_there_are_enough_sessions_of_every_kind():
    assert len(SESSIONS) >= 300
    assert Counter(session["containment"] for session in SESSIONS).keys() == {"agent", "selfService", "dropOff"}
    assert len({truth["intents"][0] for truth in TRUTHS}) >= 14
    assert sum(len(truth["intents"]) > 1 for truth in TRUTHS) >= 30
    assert sum(truth["language"] != "en" for truth in TRUTHS) >= 25
    assert len({truth["language"] for truth in TRUTHS}) >= 7


@pytest.mark.parametrize(("containment", "share"), [("selfService", 0.45), ("agent", 0.35), ("dropOff", 0.2)])
def test_containments_have_realistic_shares(containment: str, share: float):
    found = sum(session["containment"] == containment for session in SESSIONS) / len(SESSIONS)
    assert abs(found - share) < 0.05


def test_some_intents_are_much_more_frequent_than_others():
    ranked = [count for _, count in Counter(truth["intents"][0] for truth in TRUTHS).most_common()]
    assert ranked[0] >= 5 * ranked[-1]


def test_sessions_are_from_one_to_forty_messages_long():
    lengths = sorted(len(session["messages"]) for session in SESSIONS)
    assert (lengths[0], lengths[-1]) == (1, 40)
    assert 6 <= lengths[len(lengths) // 2] <= 8


def test_ids_are_unique_and_every_session_has_its_truth():
    ids = [session["session_id"] for session in SESSIONS]
    assert len({*ids}) == len(ids)
    assert [truth["session_id"] for truth in TRUTHS] == ids
    assert max(Counter(session["user_id"] for session in SESSIONS).values()) > 1


def test_only_transfers_have_a_reason_and_only_drop_offs_a_location():
    for session, truth in zip(SESSIONS, TRUTHS, strict=True):
        assert (truth["transfer_reason"] is not None) == (session["containment"] == "agent")
        assert (truth["drop_off_location"] is not None) == (session["containment"] == "dropOff")


def test_the_labels_use_the_whole_vocabulary_and_nothing_else():
    assert {intent for truth in TRUTHS for intent in truth["intents"]} == build.INTENTS
    assert {truth["transfer_reason"] for truth in TRUTHS} - {None} == build.TRANSFER_REASONS
    assert {truth["drop_off_location"] for truth in TRUTHS} - {None} == build.DROP_OFF_LOCATIONS
    assert len(build.INTENTS) <= 20
    assert len(build.TRANSFER_REASONS) <= 10
    assert len(build.DROP_OFF_LOCATIONS) <= 8


def test_agents_write_in_transferred_sessions_only():
    for session in SESSIONS:
        assert bool(texts(session, "agent")) == (session["containment"] == "agent")


def test_times_increase_and_a_tenth_of_the_sessions_has_no_times():
    untimed = 0
    for session in SESSIONS:
        times = [one["time"] for one in session["messages"] if "time" in one]
        assert all(before < after for before, after in pairwise(times))
        assert len(times) in {0, len(session["messages"])}
        untimed += not times
    assert 0.05 < untimed / len(SESSIONS) < 0.15


def test_agents_write_in_their_working_hours():
    messages = [one for session in SESSIONS for one in session["messages"] if one["role"] == "agent" and "time" in one]
    assert all(7 <= int(one["time"][11:13]) <= 22 for one in messages)


def test_the_hard_cases_exist():
    assert sum(not texts(session, "user") for session in SESSIONS) >= 3
    user_texts = [" ".join(texts(session, "user")) for session in SESSIONS]
    assert sum(bool(text) and not re.search(r"[^\W\d]", text) for text in user_texts) >= 3  # numbers or emoji only
    assert sum(len(text.split()) == 1 for text in user_texts) >= 5
    assert sum(len(text.split()) > 120 for text in user_texts) >= 3
    assert all(any(injection in text for text in user_texts) for injection in INJECTIONS)


def test_no_message_is_empty_and_every_fixed_phrase_is_replaced():
    all_texts = [text for session in SESSIONS for text in texts(session)]
    assert all(text.strip() for text in all_texts)
    assert not [text for text in all_texts if re.search(r"{\w+}", text)]


def test_no_two_sessions_are_equal():
    assert len({json.dumps(texts(session)) for session in SESSIONS}) == len(SESSIONS)


def test_long_messages_of_users_are_hardly_ever_repeated():
    counts = Counter(text for session in SESSIONS for text in texts(session, "user") if len(text) > 20)
    assert sum(count for count in counts.values() if count > 1) < 0.02 * counts.total()


def test_no_two_sessions_are_similar():
    all_grams = [found for session in SESSIONS if (found := grams(session))]
    assert len(all_grams) > 200
    assert max(len(one & other) / len(one | other) for one, other in combinations(all_grams, 2)) < 0.5


def test_the_sources_give_the_committed_bytes(tmp_path: Path):
    build.write(tmp_path)
    for name in ("support.jsonl", "support.truth.jsonl"):
        assert (tmp_path / name).read_bytes() == (CHATS / name).read_bytes()
