"""How much goes into one request: what the quota, the model and its context window allow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from parley.domain.auto_analyze.contract import Batch, LabelKind
from parley.domain.capabilities import UNKNOWN_MODEL, narrower, window
from parley.domain.chat import ChatMessage

REPLY_TOKENS_PER_SESSION = 180
REPLY_TOKENS_BASE = 200
INSTRUCTION_TOKENS = 900
# Where labels are compared, each stands in the prompt once, and in the reply as a member and perhaps as a name.
RESOLVE_TOKENS_PER_LABEL = 40
# Beyond this, models begin to drop labels.
MOST_LABELS_AT_ONCE = 150
# Different tokenisers count differently; the count at import is one of them.
TOKEN_MARGIN = 1.2
# Known labels may take this share of the window; a label in a prompt is its words, quotes and comma.
LABEL_SHARE = 0.25
BYTES_PER_LABEL_TOKEN = 3
# What a message's role and line take in a prompt.
LINE_BYTES = 16
# A pasted log takes twice the tokens of as much prose. (Bytes, since letters of other scripts take more than one.)
UNEVEN = 2
LONGEST_CHARACTER_BYTES = 4


def tighter(sized_for: str, refused_by: str) -> str:
    """The model to size for after one has found something too long: that one, or else the careful default."""
    return refused_by if narrower(refused_by, sized_for) else UNKNOWN_MODEL


def reply_tokens(sessions: int) -> int:
    """What a reply on that many sessions may take."""
    return REPLY_TOKENS_BASE + REPLY_TOKENS_PER_SESSION * sessions


def prompt_budget(model: str, label_tokens: int, sessions: int | None = None) -> int:
    """Tokens for sessions in a prompt, beside instructions, known labels and the reply on `sessions` (else the cap)."""
    room = window(model)
    reply = min(room.reply, reply_tokens(sessions or room.cap))
    return int((room.context - reply - INSTRUCTION_TOKENS) / TOKEN_MARGIN) - label_tokens


def fits(tokens: int, sessions: int, model: str, label_tokens: int) -> bool:
    """Whether a batch of so many tokens, with its labels and its reply, has room in a model's window."""
    room = prompt_budget(model, label_tokens, sessions)
    return tokens <= room and reply_tokens(sessions) <= window(model).reply


def resolution_tokens(labels: int) -> int:
    """What a reply on that many labels may take."""
    return REPLY_TOKENS_BASE + RESOLVE_TOKENS_PER_LABEL * labels


def labels_at_once(model: str) -> int:
    """How many labels a model can compare in one request: what fits its reply, and with the reply its window."""
    room = window(model)
    by_reply = (room.reply - REPLY_TOKENS_BASE) // RESOLVE_TOKENS_PER_LABEL
    by_window = (room.context - INSTRUCTION_TOKENS - REPLY_TOKENS_BASE) // (2 * RESOLVE_TOKENS_PER_LABEL)
    return min(MOST_LABELS_AT_ONCE, by_reply, by_window)


def tokens_of_labels(known: Mapping[LabelKind, Sequence[str]]) -> int:
    """About how many tokens the known labels take in a prompt."""
    return len(json.dumps(list(known.values()), ensure_ascii=False).encode()) // BYTES_PER_LABEL_TOKEN


def affordable(known: Mapping[LabelKind, Sequence[str]], model: str) -> dict[LabelKind, list[str]]:
    """The labels that a prompt has room for, in a share of the window: of each kind, those that were found first."""
    room = int(window(model).context * LABEL_SHARE / len(LabelKind))
    kept: dict[LabelKind, list[str]] = {}
    for kind, labels in known.items():
        sizes = accumulate(tokens_of_labels({kind: [label]}) + 1 for label in labels)
        kept[kind] = [label for label, size in zip(labels, sizes, strict=True) if size <= room]
    return kept


def batch_size(tokens: Sequence[int], model: str, quota: int | None, label_tokens: int) -> int:
    """How many of the next sessions fit into one request: at least one, since a larger one is condensed first."""
    room = window(model)
    most = min(quota or room.cap, (room.reply - REPLY_TOKENS_BASE) // REPLY_TOKENS_PER_SESSION)
    left, count = prompt_budget(model, label_tokens, most), 0
    for size in tokens[:most]:
        left -= size
        if left < 0 and count:
            break
        count += 1
    return count


def round_batches(
    tokens: Sequence[int], start: int, streams: int, model: str, quota: int | None, label_tokens: int
) -> tuple[Batch, ...]:
    """Cut the next sessions into one batch per stream. `tokens[0]` belongs to the ordinal `start`."""
    batches: list[Batch] = []
    at = 0
    while at < len(tokens) and len(batches) < streams:
        count = batch_size(tokens[at:], model, quota, label_tokens)
        batches.append(Batch(start=start + at, count=count))
        at += count
    return tuple(batches)


def halves(ordinals: Sequence[int]) -> list[tuple[int, ...]]:
    """Two smaller batches of what is missing; a single one stays alone."""
    middle = (len(ordinals) + 1) // 2
    return [tuple(part) for part in (ordinals[:middle], ordinals[middle:]) if part]


def parts(messages: Sequence[ChatMessage], tokens: int, budget: int) -> list[list[ChatMessage]]:
    """Cut a session of `tokens` into parts of at most `budget`; a message that is too long is cut itself.

    Where the tokens are in the text is not known: a part has room for `UNEVEN` times the average.
    """
    room = int(budget * sum(map(_bytes, messages)) / max(tokens, 1) / UNEVEN)
    longest = max(room - LINE_BYTES, LONGEST_CHARACTER_BYTES)
    cut = [
        message.model_copy(update={"text": piece}) for message in messages for piece in _pieces(message.text, longest)
    ]
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


def _pieces(text: str, size: int) -> Iterator[str]:
    """A text in pieces of at most so many bytes; no character is cut."""
    encoded, start = text.encode(), 0
    while len(encoded) - start > size:
        piece = encoded[start : start + size].decode(errors="ignore")
        yield piece
        start += len(piece.encode())
    yield encoded[start:].decode()
