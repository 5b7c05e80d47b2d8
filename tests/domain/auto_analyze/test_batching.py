import json
from itertools import chain

import pytest

from parley.domain.auto_analyze.batching import (
    INSTRUCTION_TOKENS,
    LABEL_SHARE,
    batch_size,
    compared_at_once,
    comparison_room,
    cuts,
    discovery_round,
    discovery_rounds,
    even_quota,
    fits,
    halves,
    label_room,
    labels_that_fit,
    left_out,
    parts,
    prompt_budget,
    reply_tokens,
    resolution_tokens,
    tighter,
    tokens_of_instructions,
    tokens_of_labels,
)
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.prompts import classification_request, condense_request, resolution_request, transcript
from parley.domain.auto_analyze.steps import Batch
from parley.domain.capabilities import SIZES, UNKNOWN_MODEL, narrower, window
from parley.domain.chat import ChatMessage
from parley.domain.tokens import count_tokens
from tests.domain.auto_analyze.chats import chat, said

SMALL = [200] * 500


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        ("gpt-4o-mini", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o"),
        ("gpt-4.1-nano", "gpt-4.1"),
        ("gpt-4", "gpt-4-"),
        ("gpt-3.5-turbo", "gpt-3.5"),
        ("claude-haiku-4-5", "claude"),
        ("claude-3-5-haiku-latest", "claude-3-5"),
        ("llama3.2:3b", ""),
        ("", ""),
    ],
)
def test_the_longest_prefix_of_a_model_names_its_window(model: str, prefix: str):
    assert window(model) is SIZES[prefix]


@pytest.mark.parametrize(
    ("model", "cap"), [("gpt-4o-mini", 20), ("gpt-4.1", 50), ("gpt-3.5-turbo", 20), ("some-local-model", 4)]
)
def test_without_a_quota_a_batch_has_the_models_cap(model: str, cap: int):
    assert batch_size(SMALL, model, None, 0) == cap


@pytest.mark.parametrize("model", SIZES)
def test_the_reply_on_a_full_batch_fits_every_model(model: str):
    assert reply_tokens(window(model).cap) <= window(model).reply
    assert prompt_budget(model, 0) > 0


@pytest.mark.parametrize(("quota", "count"), [(1, 1), (4, 4), (20, 20)])
def test_a_quota_limits_the_batch(quota: int, count: int):
    assert batch_size(SMALL, "gpt-4o-mini", quota, 0) == count


def test_the_last_batch_is_smaller_than_the_quota():
    assert batch_size([100, 100], "gpt-4o-mini", 4, 0) == 2
    assert batch_size([], "gpt-4o-mini", 4, 0) == 0


def test_the_reply_of_a_large_quota_fits_the_model():
    assert reply_tokens(batch_size(SMALL, "gpt-3.5-turbo", 100, 0)) <= window("gpt-3.5-turbo").reply


@pytest.mark.parametrize("quota", [None, 4, 100])
@pytest.mark.parametrize("label_tokens", [0, 2000, 1_000_000])
@pytest.mark.parametrize("size", [10, 300, 1000, 4000])
@pytest.mark.parametrize("model", ["", "gpt-3.5", "gpt-4o", "gpt-4.1"])
def test_a_batch_of_several_fits_the_context_window(model: str, size: int, label_tokens: int, quota: int | None):
    count = batch_size([size] * 200, model, quota, label_tokens)
    assert count >= 1
    if count > 1:
        anothers_count = 1.19 * size  # of a model with another tokeniser
        taken = anothers_count * count + label_tokens + INSTRUCTION_TOKENS + reply_tokens(count)
        assert taken <= window(model).context


def test_sessions_fill_the_window_and_not_more():
    budget = prompt_budget("gpt-4o", 0)
    third = budget // 3
    assert batch_size([third, third, third, third], "gpt-4o", None, 0) == 3
    assert batch_size([third, budget, third], "gpt-4o", None, 0) == 1
    assert batch_size([budget, 1], "gpt-4o", None, 0) == 1


def test_an_oversized_session_is_a_batch_of_its_own():
    assert batch_size([9_000_000, 10], "gpt-4o", None, 0) == 1
    assert batch_size([10, 9_000_000, 10], "gpt-4o", None, 0) == 1


def test_more_labels_leave_room_for_fewer_sessions():
    sizes = [5_000] * 30
    counts = [batch_size(sizes, "gpt-4o", None, tokens) for tokens in (0, 40_000, 80_000, 100_000, 200_000)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (20, 1)


def test_sessions_are_cut_into_batches_without_gaps():
    assert cuts([100] * 30, "gpt-4o-mini", 4) == [4] * 7 + [2]
    assert cuts([], "gpt-4o-mini", 4) == []


def test_an_oversized_session_does_not_move_the_others():
    assert cuts([100, 100, 9_000_000, 100], "gpt-4o-mini", 4) == [2, 1, 1]


def test_batches_leave_room_for_labels_that_are_not_known_yet():
    room = prompt_budget("gpt-4o-mini", label_room("gpt-4o-mini"), 4)
    assert cuts([room // 4] * 8, "gpt-4o-mini", 4) == [4, 4]
    assert max(cuts([room // 3] * 8, "gpt-4o-mini", 4)) == 3


def test_instructions_take_their_room_from_sessions_and_labels():
    added = tokens_of_instructions("b" * 999)
    room = prompt_budget("", label_room(""), 4)
    assert cuts([room // 4] * 4, "", 4) == [4]
    assert cuts([room // 4] * 4, "", 4, added) == [3, 1]
    assert comparison_room("", added).tokens == comparison_room("").tokens - added
    assert comparison_room("", added).labels == comparison_room("").labels


@pytest.mark.parametrize("sessions", [1, 7, 50, 85, 1000, 12_345])
def test_an_even_quota_gives_every_stream_the_same_number_of_batches(sessions: int):
    quota, most = even_quota(sessions, 8, "gpt-4o-mini"), window("gpt-4o-mini").cap
    batches = -(-sessions // quota)
    assert quota <= most
    assert -(-batches // 8) == -(-sessions // (8 * most))


def test_discovery_begins_with_one_request_and_ends_with_round_0():
    sizes = [5] * 11 + [3]
    rounds, done, first = discovery_rounds(len(sizes)), 0, 0
    made: list[list[Batch]] = []
    for step in range(rounds):
        made.append([*discovery_round(sizes[done:], step, first, rounds)])
        done, first = done + len(made[-1]), first + sum(batch.count for batch in made[-1])
    assert [len(batches) for batches in made] == [1, 2, 4, 4, 1]
    assert [batches[0].round for batches in made] == [-4, -3, -2, -1, 0]
    assert [ordinal for batches in made for batch in batches for ordinal in batch.ordinals] == list(range(58))


@pytest.mark.parametrize(
    ("ordinals", "expected"),
    [((), []), ((7,), [(7,)]), ((1, 5), [(1,), (5,)]), ((1, 2, 9), [(1, 2), (9,)]), ((1, 2, 3, 4), [(1, 2), (3, 4)])],
)
def test_halves_are_smaller_and_complete(ordinals: tuple[int, ...], expected: list[tuple[int, ...]]):
    assert halves(ordinals) == expected


PROSE = "My invoice from last month is wrong and nobody answers my mails. "
LOG = "4f9c0e77-1b1d-4c6e a8:7f0x9e3=d41d8cd98f00b204e9800998ecf8427e "


def imported_tokens(messages: list[ChatMessage]) -> int:
    return sum(count_tokens(message.text) + 4 for message in messages)


LARGE: dict[str, list[ChatMessage]] = {
    "many messages": said(*[PROSE * 3] * 300),
    "one message": said(PROSE * 900),
    "one long among many": said(*[PROSE] * 200, PROSE * 500, *["ok"] * 200),
    "very many short ones": said(*["ok"] * 8000),
    "no words at all": said(*[""] * 4000, role="bot") + said("hi"),
    "prose and a pasted log": said(PROSE * 600, LOG * 500),
    "a script without blanks": said("我的发票有错误请帮助我" * 3000),
    "prose and emoji": said(PROSE * 500, "👩‍👩‍👧‍👦🏳️‍🌈" * 400, PROSE * 50),
    "prose and emoji in one message": said(PROSE * 500 + "👩‍👩‍👧‍👦🏳️‍🌈" * 400 + PROSE * 50),
    "empty at the ends": said("", PROSE * 900, ""),
}


@pytest.mark.parametrize("name", LARGE)
def test_parts_hold_the_whole_text_in_order_and_fit_the_window(name: str):
    messages, model = LARGE[name], "some-local-model"
    pieces = parts(messages, imported_tokens(messages), prompt_budget(model, 0))
    assert len(pieces) > 1
    flat = list(chain.from_iterable(pieces))
    for role in ("user", "bot"):
        whole = "".join(message.text for message in messages if message.role == role)
        assert "".join(message.text for message in flat if message.role == role) == whole
    assert len(flat) >= len(messages)
    for number, piece in enumerate(pieces):
        request = condense_request(piece, number, len(pieces))
        prompt = sum(count_tokens(message.content) for message in request.messages)
        assert prompt + request.max_tokens <= window(model).context


def test_the_time_and_the_role_of_a_cut_message_stay():
    message = ChatMessage.model_validate({"role": "agent", "text": PROSE * 900, "time": "2026-03-02T10:00:00Z"})
    pieces = parts([message], count_tokens(message.text), 2000)
    assert {(part.role, part.time) for part in chain.from_iterable(pieces)} == {("agent", message.time)}


def test_a_session_within_the_budget_stays_one_part():
    messages = said("Hello", "my invoice is wrong")
    assert parts(messages, imported_tokens(messages), 5000) == [messages]


@pytest.mark.parametrize(("tokens", "budget"), [(0, 100), (10**9, 1), (5, 0)])
def test_parts_terminate_for_any_numbers(tokens: int, budget: int):
    pieces = parts(said("some words", ""), tokens, budget)
    assert "".join(message.text for message in chain.from_iterable(pieces)) == "some words"


def test_a_full_batch_of_full_sessions_fits_the_window_in_real_tokens():
    model, labels = "gpt-4o-mini", {LabelKind.INTENT: [f"label number {at}" for at in range(400)]}
    sessions = [chat(f"s{at}", *[PROSE * 5] * 90) for at in range(30)]
    sizes = [imported_tokens(list(session.messages)) for session in sessions]
    count = batch_size(sizes, model, None, len(json.dumps(list(labels.values()))) // 3)
    assert 1 < count < window(model).cap
    request = classification_request({session.session_id: session for session in sessions[:count]}, labels, {})
    prompt = sum(count_tokens(message.content) for message in request.messages)
    assert 0.7 * window(model).context < prompt + request.max_tokens <= window(model).context
    assert transcript(sessions[0].messages) in json.loads(request.messages[1].content)["sessions"][0]["transcript"]


@pytest.mark.parametrize("model", ["gpt-4o-mini", "llama-3.1-8b-instruct"])
def test_known_labels_leave_room_for_sessions(model: str):
    known = {kind: [f"a label of some length, number {number}" for number in range(20_000)] for kind in LabelKind}
    selected = labels_that_fit(known, model)
    assert all(labels == known[kind][: len(labels)] for kind, labels in selected.items()), "the first that were found"
    assert all(selected.values())
    assert left_out(known, selected) == 3 * 20_000 - sum(map(len, selected.values()))
    assert tokens_of_labels(selected) <= window(model).context * LABEL_SHARE
    assert prompt_budget(model, tokens_of_labels(selected), 1) > 0


def test_few_labels_all_fit():
    known = {LabelKind.INTENT: ["billing dispute"], LabelKind.TRANSFER_REASON: [], LabelKind.DROP_OFF_LOCATION: []}
    assert labels_that_fit(known, "gpt-4o-mini") == known
    assert left_out(known, known) == 0


@pytest.mark.parametrize("model", SIZES)
def test_the_labels_that_are_compared_at_once_fit_the_reply_and_the_window(model: str):
    many = [
        LabelEvidence(
            label=f"a label of some words {at:03}",
            sessions=at,
            definition="The user wants to know where the card is that was ordered two weeks ago.",
            examples=("Where is my card? It was sent on Monday.", "I am still waiting for the card that I ordered."),
        )
        for at in range(1000)
    ]
    fitting = next(many[:count] for count in range(1000, 0, -1) if compared_at_once(many[:count], model))
    assert len(fitting) >= 15
    assert resolution_tokens(len(fitting)) <= window(model).reply
    request = resolution_request(LabelKind.INTENT, fitting)
    prompt = sum(count_tokens(message.content) for message in request.messages)
    assert prompt + request.max_tokens <= window(model).context


def test_the_reply_limits_the_labels_of_a_wide_window():
    assert comparison_room("gpt-4o-mini").labels == 395


def test_if_the_narrower_window_is_not_known_the_default_is_used():
    assert tighter("gpt-4o", "gpt-3.5-turbo") == "gpt-3.5-turbo"
    assert tighter("gpt-4o", "claude-haiku-4-5") == tighter("gpt-4o", "gpt-4o") == UNKNOWN_MODEL
    assert not any(narrower(model, UNKNOWN_MODEL) for model in SIZES)


def test_a_batch_made_for_one_model_may_not_fit_another():
    assert fits(tokens=5_000, sessions=4, model="gpt-4", label_tokens=0)
    assert not fits(tokens=5_000, sessions=4, model="gpt-4", label_tokens=2_000)
    assert not fits(tokens=7_000, sessions=4, model="gpt-4", label_tokens=0)
    assert fits(tokens=7_000, sessions=4, model="gpt-4o", label_tokens=2_000)


def test_a_batch_whose_reply_is_too_long_does_not_fit():
    assert fits(tokens=100, sessions=40, model="claude-3-5-haiku-latest", label_tokens=0)
    assert not fits(tokens=100, sessions=50, model="claude-3-5-haiku-latest", label_tokens=0)
