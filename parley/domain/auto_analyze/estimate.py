"""What a labelling run will probably take, by phase: it advises, and reserves nothing."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from parley.domain.auto_analyze.batching import (
    DISCOVERY_SESSIONS,
    RESOLVE_TOKENS_PER_LABEL,
    comparison_room,
    cuts,
    discovery_rounds,
    even_quota,
    resolution_tokens,
)
from parley.domain.auto_analyze.contract import AutoAnalyzeInput, LabelKind, Phase
from parley.domain.auto_analyze.nearest import NEAREST
from parley.domain.auto_analyze.prompts import LABEL_SYSTEM, RESOLVE_SYSTEM
from parley.domain.auto_analyze.sampling import SessionFacts, processing_order
from parley.domain.model import Model
from parley.domain.pricing import Rates, cost
from parley.domain.requests import Provider, Usage
from parley.domain.tokens import count_tokens

# Measured on the sample of 379 sessions: the labels of all kinds before they are merged, the tokens of a label in a
# prompt, of a session beside its messages, and of its labels in the reply. Data with more labels costs more.
LABELS, LABEL_TOKENS, TOKENS_BESIDE_MESSAGES, LABELS_OF_A_SESSION = 90, 6, 30, 65
# The tokens of a label's evidence in a comparison, and in a request for labels.
EVIDENCE_TOKENS, NEAREST_TOKENS = 115, 60


IN_BATCHES = "the requests of the streams are answered in batches, at half price: within 24 hours, mostly sooner"


class PhaseEstimate(Model):
    """One phase of a run.

    requests: to a model, without repetitions. rounds: how many of them are made one after another.
    minutes: with replies as fast as this model's last ones; None where the ledger has none of them, and for what is
        asked in batches.
    """

    phase: Phase
    requests: int
    rounds: int
    input_tokens: int
    output_tokens: int
    estimated_usd: Decimal
    minutes: float | None


class RunEstimate(Model):
    """What a labelling run will probably take with a model.

    copies: sessions that are not sent, because their transcript is that of an earlier one.
    estimated_usd, minutes: the sums of the phases.
    warnings: what makes the run slower than it could be, or what is not known.
    """

    provider: Provider
    model: str
    sessions: int
    copies: int
    phases: tuple[PhaseEstimate, ...]
    estimated_usd: Decimal
    minutes: float | None
    warnings: tuple[str, ...] = ()


class Speed(NamedTuple):
    """How fast a model answers.

    requests_per_second: the provider's limit. seconds_per_token: of a reply; None where no reply is on record.
    """

    requests_per_second: float
    seconds_per_token: float | None


class _Work(NamedTuple):
    """The requests of a phase, `rounds` of them one after another, and their tokens."""

    phase: Phase
    requests: int
    rounds: int
    input_tokens: int
    output_tokens: int


def estimate(
    facts: Sequence[SessionFacts],
    given: AutoAnalyzeInput,
    provider: Provider,
    model: str,
    rates: Rates,
    speed: Speed,
    batch_rates: Rates | None = None,
) -> RunEstimate:
    """Estimate a run on these sessions: its batches are those of the run, its labels those of a common dataset.

    Args:
        facts: of all sessions, in the order of their file.
        given: the run's input.
        provider: the first one that the run will ask.
        model: its model.
        rates: its prices.
        speed: how fast it answers.
        batch_rates: its prices in a batch, for a run that asks in batches.

    Returns:
        The estimate. The discovery is counted whole, although it may end early. The second look is not counted.
    """
    order = processing_order(facts, given.discovery, given.seed)
    sizes = {session.position: session.tokens for session in facts}
    tokens = [sizes[position] for position in order.positions[: len(facts) - len(order.copies)]]
    sample, rest = tokens[: len(order.sample)], tokens[len(order.sample) :]
    works = (_discovery(sample, given, model), _streams(rest, given, model), _conflicts(model))
    in_batches = batch_rates if given.processing == "batch" else None
    phases = tuple(_phase(work, rates, speed, in_batches) for work in works if work.requests)
    minutes = [one.minutes for one in phases]
    return RunEstimate(
        provider=provider,
        model=model,
        sessions=len(facts),
        copies=len(order.copies),
        phases=phases,
        estimated_usd=sum((one.estimated_usd for one in phases), Decimal(0)),
        minutes=None if None in minutes else sum(filter(None, minutes)),
        warnings=_warnings(given, provider, model, speed),
    )


def _discovery(tokens: Sequence[int], given: AutoAnalyzeInput, model: str) -> _Work:
    requests = len(cuts(tokens, model, discovery_quota(given.sessions_per_stream)))
    # Labels are found on the way: a request has half of them on average.
    return _labelling(Phase.DISCOVERY, tokens, requests, discovery_rounds(requests), LABELS // 2)


def _streams(tokens: Sequence[int], given: AutoAnalyzeInput, model: str) -> _Work:
    quota = given.sessions_per_stream or even_quota(len(tokens), given.streams, model)
    requests = len(cuts(tokens, model, quota))
    return _labelling(Phase.PARALLEL, tokens, requests, -(-requests // given.streams), LABELS)


def _labelling(phase: Phase, tokens: Sequence[int], requests: int, rounds: int, labels: int) -> _Work:
    nearest = min(NEAREST * -(-len(tokens) // max(requests, 1)), labels // len(LabelKind))
    sent_with_each = count_tokens(LABEL_SYSTEM) + labels * LABEL_TOKENS + nearest * NEAREST_TOKENS
    sent = sum(tokens) + len(tokens) * TOKENS_BESIDE_MESSAGES + requests * sent_with_each
    return _Work(phase, requests, rounds, sent, len(tokens) * LABELS_OF_A_SESSION)


def _conflicts(model: str) -> _Work:
    """Each kind is compared on its own. A reply has each label as a member, and some as the canonical name."""
    by_kind = -(-LABELS // len(LabelKind))
    room, in_prompt = comparison_room(model), LABEL_TOKENS + EVIDENCE_TOKENS
    at_once = min(room.labels, room.tokens // (in_prompt + RESOLVE_TOKENS_PER_LABEL))
    requests = len(LabelKind) * -(-by_kind // at_once)
    return _Work(Phase.CONFLICTS, requests, requests, _compared_tokens(requests), 2 * LABELS * LABEL_TOKENS)


def _compared_tokens(requests: int) -> int:
    """What so many requests send in which all labels are compared once, each with its evidence."""
    return requests * count_tokens(RESOLVE_SYSTEM) + LABELS * (LABEL_TOKENS + EVIDENCE_TOKENS)


def _phase(work: _Work, rates: Rates, speed: Speed, batch_rates: Rates | None) -> PhaseEstimate:
    """`batch_rates`: None where nothing is asked in batches."""
    if batch_rates is not None and work.phase is Phase.PARALLEL:
        work, rates, speed = work._replace(rounds=1), batch_rates, speed._replace(seconds_per_token=None)
    return PhaseEstimate(
        **work._asdict(),
        estimated_usd=cost(Usage(input_tokens=work.input_tokens, output_tokens=work.output_tokens), rates),
        minutes=_minutes(work, speed),
    )


def _minutes(work: _Work, speed: Speed) -> float | None:
    if speed.seconds_per_token is None:
        return None
    one_after_another = work.rounds * work.output_tokens / work.requests * speed.seconds_per_token
    return max(one_after_another, work.requests / speed.requests_per_second) / 60


def _warnings(given: AutoAnalyzeInput, provider: Provider, model: str, speed: Speed) -> tuple[str, ...]:
    idle = idle_streams(given.streams, speed.requests_per_second)
    slow = (f"{provider.value}: {idle}",) if idle else ()
    if given.processing == "batch":
        slow = (IN_BATCHES,)
    unknown = f"no reply of {model} is on record in this workspace: the minutes are not estimated"
    return (*slow, unknown) if speed.seconds_per_token is None else slow


def set_aside_usd(budget_usd: Decimal, rates: Rates) -> Decimal:
    """The part of a budget that is kept for merging labels: what it may cost at most, and never over a quarter.

    Args:
        budget_usd: of the whole run.
        rates: the prices of its first model.
    """
    by_kind = -(-LABELS // len(LabelKind))
    replies = len(LabelKind) * resolution_tokens(by_kind)
    used = Usage(input_tokens=_compared_tokens(len(LabelKind)), output_tokens=replies)
    return min(cost(used, rates), budget_usd / 4)


def discovery_quota(sessions_per_stream: int | None) -> int:
    """How many sessions a request of the discovery has at most."""
    return min(sessions_per_stream or DISCOVERY_SESSIONS, DISCOVERY_SESSIONS)


def idle_streams(streams: int, requests_per_second: float) -> str:
    """A sentence if streams would be idle because of a provider's limit; empty if none would.

    Streams make as many requests a second as there are, over the seconds of a reply, so that the limit decides where
    replies take less than `streams / requests_per_second` seconds.
    """
    if streams <= requests_per_second:
        return ""
    seconds = streams / requests_per_second
    limit = f"{requests_per_second:g} requests a second"
    return f"with {limit}, some of {streams} streams are idle while replies take less than {seconds:g} s"
