"""How the work of a run is cut: rounds into batches, batches into requests, and the run into segments.

A batch is as large as the quota, the model and its context window allow. Where a request turns out to be too much, or
its reply leaves sessions out, `remainder` decides what to request next.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.steps import MAX_ASKS, Batch, ClassifyOutcome
from parley.domain.capabilities import UNKNOWN_MODEL, narrower, window
from parley.domain.chat import ChatMessage

REPLY_TOKENS_PER_SESSION = 190
REPLY_TOKENS_BASE = 200
INSTRUCTION_TOKENS = 900
# A comparison has each label in the prompt once, and in the reply as a member and perhaps as the canonical name.
RESOLVE_TOKENS_PER_LABEL = 40
# A better label is an id and a label.
CHOICE_TOKENS_PER_SESSION = 40
# Tokenisers differ; the count at import is by one of them.
TOKEN_MARGIN = 1.2
# Known labels may take this share of the context window. A label in a prompt is its words, quotes and a comma.
LABEL_SHARE = 0.25
BYTES_PER_LABEL_TOKEN = 3
# The bytes of a message's role and line break in a prompt.
LINE_BYTES = 16
# A pasted log takes twice the tokens of prose with as many bytes.
UNEVEN_TOKENS_FACTOR = 2
LONGEST_CHARACTER_BYTES = 4
# The discovery requests so many sessions together, and so many requests at once.
DISCOVERY_SESSIONS = 5
DISCOVERY_AT_ONCE = 4


def tighter(sized_for: str, refused_by: str) -> str:
    """The model to size for after `refused_by` found a request too long: the narrower one, else the careful default."""
    return refused_by if narrower(refused_by, sized_for) else UNKNOWN_MODEL


def reply_tokens(sessions: int) -> int:
    """The output tokens to allow for a reply on so many sessions."""
    return REPLY_TOKENS_BASE + REPLY_TOKENS_PER_SESSION * sessions


def prompt_budget(model: str, label_tokens: int, sessions: int | None = None) -> int:
    """The tokens that a prompt has for sessions, in addition to the instructions, the known labels and the reply.

    `sessions`: how many the reply covers; by default the model's cap.
    """
    room = window(model)
    reply = min(room.reply, reply_tokens(sessions or room.cap))
    return int((room.context - reply - INSTRUCTION_TOKENS) / TOKEN_MARGIN) - label_tokens


def fits(tokens: int, sessions: int, model: str, label_tokens: int) -> bool:
    """Whether a batch of so many tokens, with its labels and its reply, fits a model's context window."""
    room = prompt_budget(model, label_tokens, sessions)
    return tokens <= room and reply_tokens(sessions) <= window(model).reply


def resolution_tokens(labels: int) -> int:
    """The output tokens to allow for a comparison of so many labels."""
    return REPLY_TOKENS_BASE + RESOLVE_TOKENS_PER_LABEL * labels


def choice_tokens(sessions: int) -> int:
    """The output tokens to allow for the better labels of so many sessions."""
    return REPLY_TOKENS_BASE + CHOICE_TOKENS_PER_SESSION * sessions


def tokens_of_instructions(instructions: str) -> int:
    """The estimated tokens of what the operator of a run adds to its prompts."""
    return len(instructions.encode()) // BYTES_PER_LABEL_TOKEN


class ComparisonRoom(NamedTuple):
    """What one request has room for: so many `labels` in the reply, and so many `tokens` of labels in all."""

    labels: int
    tokens: int


def comparison_room(model: str, added: int = 0) -> ComparisonRoom:
    """How many labels a model can compare in one request, by its longest reply and its context window.

    `added`: the tokens of the operator's instructions.
    """
    room = window(model)
    by_reply = (room.reply - REPLY_TOKENS_BASE) // RESOLVE_TOKENS_PER_LABEL
    tokens = int((room.context - INSTRUCTION_TOKENS - REPLY_TOKENS_BASE) / TOKEN_MARGIN) - added
    return ComparisonRoom(by_reply, tokens)


def compared_at_once(labels: Sequence[LabelEvidence], model: str, added: int = 0) -> bool:
    """Whether a model can compare these labels in one request. `added`: as in `comparison_room`."""
    room = comparison_room(model, added)
    return len(labels) <= room.labels and sum(map(comparison_tokens, labels)) <= room.tokens


def comparison_tokens(label: LabelEvidence) -> int:
    """The tokens of a label in a comparison: in the prompt with its evidence, and in the reply."""
    shown = json.dumps(label.model_dump(mode="json"), ensure_ascii=False)
    return len(shown.encode()) // BYTES_PER_LABEL_TOKEN + RESOLVE_TOKENS_PER_LABEL


def tokens_of_labels(known: Mapping[LabelKind, Sequence[str]]) -> int:
    """The estimated tokens of the known labels in a prompt."""
    return len(json.dumps(list(known.values()), ensure_ascii=False).encode()) // BYTES_PER_LABEL_TOKEN


def kind_room(model: str) -> int:
    """The tokens that the known labels of one kind may take."""
    return int(window(model).context * LABEL_SHARE / len(LabelKind))


def evidence_room(model: str) -> int:
    """The tokens that the evidence of the nearest labels may take, of those for intents."""
    return kind_room(model) // 2


def labels_that_fit(known: Mapping[LabelKind, Sequence[str]], model: str) -> dict[LabelKind, list[str]]:
    """The known labels that fit `LABEL_SHARE` of the context window: of each kind, those that were found first."""
    room = kind_room(model)
    fitting: dict[LabelKind, list[str]] = {}
    for kind, labels in known.items():
        sizes = accumulate(tokens_of_labels({kind: [label]}) + 1 for label in labels)
        fitting[kind] = [label for label, size in zip(labels, sizes, strict=True) if size <= room]
    return fitting


def left_out(known: Mapping[LabelKind, Sequence[str]], fitting: Mapping[LabelKind, Sequence[str]]) -> int:
    """How many known labels are not among those that fit."""
    return sum(len(labels) - len(fitting[kind]) for kind, labels in known.items())


def batch_size(tokens: Sequence[int], model: str, quota: int | None, label_tokens: int) -> int:
    """How many of the next sessions fit into one request. At least one: a session that is too large is condensed."""
    room = window(model)
    most = min(quota or room.cap, (room.reply - REPLY_TOKENS_BASE) // REPLY_TOKENS_PER_SESSION)
    left, count = prompt_budget(model, label_tokens, most), 0
    for size in tokens[:most]:
        left -= size
        if left < 0 and count:
            break
        count += 1
    return count


def label_room(model: str) -> int:
    """The tokens that are kept free for known labels, which are not known yet when the batches are cut."""
    return int(window(model).context * LABEL_SHARE)


def even_quota(sessions: int, streams: int, model: str) -> int:
    """How many sessions a batch may have so that a model takes as many as it can, and no stream goes without."""
    most = window(model).cap
    rounds = max(-(-sessions // (streams * most)), 1)
    return max(-(-sessions // (streams * rounds)), 1)


def cuts(tokens: Sequence[int], model: str, quota: int, added: int = 0) -> list[int]:
    """How many sessions each batch has, of sessions with so many tokens in their order.

    `added`: the tokens of the operator's instructions.
    """
    sizes: list[int] = []
    at, room = 0, label_room(model) + added
    while at < len(tokens):
        sizes.append(batch_size(tokens[at : at + quota], model, quota, room))
        at += sizes[-1]
    return sizes


def discovery_round(sizes: Sequence[int], step: int, first: int, rounds: int) -> tuple[Batch, ...]:
    """The batches of a round of the discovery, which are requested at once: 1, then 2, then `DISCOVERY_AT_ONCE`.

    Most labels are found in the first sessions, so these share them soonest.

    Args:
        sizes: of the requests that are left.
        step: the rounds before this one.
        first: the ordinal of the first session that is left.
        rounds: of the whole discovery: the last one has the number 0.
    """
    at_once = sizes[: discovery_width(step)]
    starts = accumulate(at_once, initial=first)
    number = step + 1 - rounds
    return tuple(
        Batch(round=number, stream=stream, start=start, count=count)
        for stream, (start, count) in enumerate(zip(starts, at_once, strict=False), start=1)
    )


def discovery_width(step: int) -> int:
    """How many requests a round of the discovery makes at once. `step`: the rounds before it."""
    return min(2**step, DISCOVERY_AT_ONCE)


def discovery_rounds(requests: int) -> int:
    """How many rounds so many requests of the discovery take."""
    step = 0
    while requests > 0:
        requests -= discovery_width(step)
        step += 1
    return step


def halves(ordinals: Sequence[int]) -> list[tuple[int, ...]]:
    """The ordinals in two halves; a single one makes one half."""
    middle = (len(ordinals) + 1) // 2
    return [tuple(part) for part in (ordinals[:middle], ordinals[middle:]) if part]


def parts(messages: Sequence[ChatMessage], tokens: int, budget: int) -> list[list[ChatMessage]]:
    """Cut a session of `tokens` into parts of at most `budget` tokens. A message that is too long is cut itself.

    Tokens are spread unevenly over the text, so a part allows for `UNEVEN_TOKENS_FACTOR` times the average.
    """
    room = int(budget * sum(map(_bytes, messages)) / max(tokens, 1) / UNEVEN_TOKENS_FACTOR)
    longest = max(room - LINE_BYTES, LONGEST_CHARACTER_BYTES)
    cut = [message.model_copy(update={"text": part}) for message in messages for part in _cut(message.text, longest)]
    made: list[list[ChatMessage]] = [[]]
    left = room
    for message in cut:
        if made[-1] and _bytes(message) > left:
            made.append([])
            left = room
        made[-1].append(message)
        left -= _bytes(message)
    return made


def _bytes(message: ChatMessage) -> int:
    return len(message.text.encode()) + LINE_BYTES


def _cut(text: str, size: int) -> Iterator[str]:
    """The text in parts of at most `size` bytes; no character is split."""
    encoded, start = text.encode(), 0
    while len(encoded) - start > size:
        part = encoded[start : start + size].decode(errors="ignore")
        yield part
        start += len(part.encode())
    yield encoded[start:].decode()


class SubBatch(NamedTuple):
    """Sessions of a batch to label in one request. `sized_for`: the model whose window the prompt is made for."""

    ordinals: tuple[int, ...]
    sized_for: str
    ask: int = 1

    def excluding(self, ordinals: Sequence[int]) -> "SubBatch":
        return self._replace(ordinals=tuple(ordinal for ordinal in self.ordinals if ordinal not in ordinals))


class Remainder(NamedTuple):
    """What is left of a sub-batch: requests to make, and sessions for which no further request is made."""

    sub_batches: tuple[SubBatch, ...] = ()
    unlabelled: tuple[int, ...] = ()


def remainder(sub_batch: SubBatch, outcome: ClassifyOutcome) -> Remainder:
    """What to do after a request: repeat it once sessions are condensed, or halve what was too much or is missing.

    Halving ends at a single session. If that is too long, it is condensed. If every provider refuses it, or its labels
    are missing after `MAX_ASKS` requests, it stays unlabelled.
    """
    if outcome.too_long_for:
        return Remainder(_smaller(sub_batch, outcome.too_long_for))
    if outcome.refused:
        single = len(sub_batch.ordinals) == 1
        return Remainder(unlabelled=sub_batch.ordinals) if single else Remainder(_halved(sub_batch, sub_batch.ordinals))
    if outcome.oversized:
        return Remainder((sub_batch,))
    if sub_batch.ask >= MAX_ASKS:
        return Remainder(unlabelled=outcome.missing)
    return Remainder(_halved(sub_batch._replace(ask=sub_batch.ask + 1), outcome.missing))


def _smaller(sub_batch: SubBatch, refused_by: str) -> tuple[SubBatch, ...]:
    """Half as many sessions. A single one is sized for a smaller window: its summary, and the known labels."""
    if len(sub_batch.ordinals) == 1:
        return (sub_batch._replace(sized_for=tighter(sub_batch.sized_for, refused_by)),)
    sized_for = refused_by if narrower(refused_by, sub_batch.sized_for) else sub_batch.sized_for
    return _halved(sub_batch._replace(sized_for=sized_for), sub_batch.ordinals)


def _halved(sub_batch: SubBatch, ordinals: Sequence[int]) -> tuple[SubBatch, ...]:
    return tuple(sub_batch._replace(ordinals=half) for half in halves(ordinals))
