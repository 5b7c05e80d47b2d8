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
    tokens_of_instructions,
)
from parley.domain.auto_analyze.contract import AutoAnalyzeInput, LabelKind, Phase
from parley.domain.auto_analyze.nearest import NEAREST
from parley.domain.auto_analyze.probing import AT_ONCE, probe_count
from parley.domain.auto_analyze.prompts import LABEL_SYSTEM, REASSIGN_SYSTEM, RESOLVE_SYSTEM
from parley.domain.auto_analyze.sampling import SessionFacts, processing_order, sample_size
from parley.domain.model import Model
from parley.domain.pricing import Rates, cost
from parley.domain.requests import Provider, Usage
from parley.domain.tokens import count_tokens

# Measured on the sample of 379 sessions: the labels of all kinds before they are merged, the tokens of a label in a
# prompt, of a session beside its messages, and of its labels in the reply. Data with more labels costs more.
LABELS, LABEL_TOKENS, TOKENS_BESIDE_MESSAGES, LABELS_OF_A_SESSION = 90, 6, 30, 65
# The tokens of a label's evidence in a comparison, and in a request for labels.
EVIDENCE_TOKENS, NEAREST_TOKENS = 115, 60
# Of the second look, on the same sample: the share of the sessions that are in doubt, how many of them a request has,
# and the tokens of the labels that it shows, of a session in doubt, and of its answer.
DOUBTS_SHARE, DOUBTS_TOGETHER, CHOICES_TOKENS, DOUBT_TOKENS, DECISION_TOKENS = 0.68, 15, 3200, 70, 12


IN_BATCHES = (
    "the requests of the streams, and those of the second look after them, are answered in batches, at half price: "
    "each within 24 hours, mostly sooner"
)
BATCHED = (Phase.PARALLEL, Phase.REASSIGNMENT)


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


class Workload(NamedTuple):
    """The tokens of the sessions that a run sends: of its sample and of the rest.

    `copies`: sessions that it does not send. `given_labels`: labels that it starts from.
    """

    sample: Sequence[int]
    rest: Sequence[int]
    copies: int = 0
    given_labels: int = 0

    @property
    def sent(self) -> int:
        return len(self.sample) + len(self.rest)


def workload_of(facts: Sequence[SessionFacts], given: AutoAnalyzeInput, given_labels: int = 0) -> Workload:
    """The work of a run on these sessions, in the order of their file: its sample and batches are those of the run."""
    order = processing_order(facts, None if given.has_closed_intents else given.discovery, given.seed)
    sizes = {session.position: session.tokens for session in facts}
    tokens = [sizes[position] for position in order.positions[: len(facts) - len(order.copies)]]
    return Workload(tokens[: len(order.sample)], tokens[len(order.sample) :], len(order.copies), given_labels)


def even_workload(sessions: int, tokens: int, copies: int, given: AutoAnalyzeInput, given_labels: int = 0) -> Workload:
    """The work of a run of which only totals are known, as if all sessions had the same size.

    Args:
        sessions: with copies.
        tokens: of all sessions.
        copies: that are not sent.
        given: the run's input.
        given_labels: that it starts from.
    """
    sent, each = sessions - copies, -(-tokens // max(sessions, 1))
    sample = 0 if given.has_closed_intents else sample_size(sent, given.discovery)
    return Workload([each] * sample, [each] * (sent - sample), copies, given_labels)


def estimate(
    work: Workload,
    given: AutoAnalyzeInput,
    provider: Provider,
    model: str,
    rates: Rates,
    speed: Speed,
    batch_rates: Rates | None = None,
) -> RunEstimate:
    """Estimate a run: its batches are those of the run, its labels those of a common dataset.

    Args:
        work: the sessions.
        given: the run's input.
        provider: the first one that the run will ask.
        model: its model.
        rates: its prices.
        speed: how fast it answers.
        batch_rates: its prices in a batch, for a run that asks in batches.

    Returns:
        The estimate. The discovery is counted whole, although it may end early, and the second look with as many
        sessions in doubt as the sample of 379 sessions has.
    """
    labels = work.given_labels if given.has_closed_intents else LABELS + work.given_labels
    works = (
        _discovery(work.sample, given, model, labels),
        _streams(work.rest, given, model, labels),
        _probes(work, given, labels),
        _conflicts(given, model),
        _second_look(work, given),
    )
    in_batches = batch_rates if given.processing == "batch" else None
    phases = tuple(_phase(one, rates, speed, in_batches) for one in works if one.requests)
    minutes = [one.minutes for one in phases]
    return RunEstimate(
        provider=provider,
        model=model,
        sessions=work.sent + work.copies,
        copies=work.copies,
        phases=phases,
        estimated_usd=sum((one.estimated_usd for one in phases), Decimal(0)),
        minutes=None if None in minutes else sum(filter(None, minutes)),
        warnings=_warnings(given, provider, model, speed),
    )


def _discovery(tokens: Sequence[int], given: AutoAnalyzeInput, model: str, labels: int) -> _Work:
    added = tokens_of_instructions(given.instructions)
    requests = len(cuts(tokens, model, discovery_quota(given.sessions_per_stream), added))
    # Labels are found on the way: a request has half of them on average.
    found = labels - LABELS // 2
    return _labelling(Phase.DISCOVERY, tokens, requests, discovery_rounds(requests), found, added)


def _streams(tokens: Sequence[int], given: AutoAnalyzeInput, model: str, labels: int) -> _Work:
    quota = given.sessions_per_stream or even_quota(len(tokens), given.streams, model)
    added = tokens_of_instructions(given.instructions)
    requests = len(cuts(tokens, model, quota, added))
    return _labelling(Phase.PARALLEL, tokens, requests, -(-requests // given.streams), labels, added)


def _probes(work: Workload, given: AutoAnalyzeInput, labels: int) -> _Work:
    """Some sessions are sent a second time, as large as the others are on average."""
    count = probe_count(given.probes, work.sent)
    requests = -(-count // min(given.sessions_per_stream or AT_ONCE, AT_ONCE))
    each = (sum(work.sample) + sum(work.rest)) // max(work.sent, 1)
    added = tokens_of_instructions(given.instructions)
    return _labelling(Phase.PROBES, [each] * count, requests, -(-requests // given.streams), labels, added)


def _labelling(phase: Phase, tokens: Sequence[int], requests: int, rounds: int, labels: int, added: int) -> _Work:
    """`added`: the tokens of the operator's instructions."""
    nearest = min(NEAREST * -(-len(tokens) // max(requests, 1)), labels // len(LabelKind))
    sent_with_each = count_tokens(LABEL_SYSTEM) + added + labels * LABEL_TOKENS + nearest * NEAREST_TOKENS
    sent = sum(tokens) + len(tokens) * TOKENS_BESIDE_MESSAGES + requests * sent_with_each
    return _Work(phase, requests, rounds, sent, len(tokens) * LABELS_OF_A_SESSION)


def _conflicts(given: AutoAnalyzeInput, model: str) -> _Work:
    """Each kind is compared on its own, if it takes new labels. A reply has each label as a member, and some as the
    canonical name."""
    kinds = len(LabelKind) - len(given.closed)
    by_kind = -(-LABELS // len(LabelKind))
    added, in_prompt = tokens_of_instructions(given.instructions), LABEL_TOKENS + EVIDENCE_TOKENS
    room = comparison_room(model, added)
    at_once = min(room.labels, room.tokens // (in_prompt + RESOLVE_TOKENS_PER_LABEL))
    requests = kinds * -(-by_kind // at_once)
    labels = kinds * by_kind
    sent = _compared_tokens(requests, labels) + requests * added
    return _Work(Phase.CONFLICTS, requests, requests, sent, 2 * labels * LABEL_TOKENS)


def _compared_tokens(requests: int, labels: int) -> int:
    """What so many requests send in which labels are compared once, each with its evidence."""
    return requests * count_tokens(RESOLVE_SYSTEM) + labels * (LABEL_TOKENS + EVIDENCE_TOKENS)


def _second_look(work: Workload, given: AutoAnalyzeInput) -> _Work:
    """The sessions in doubt, with the evidence of the labels that they choose from."""
    doubts = int(work.sent * DOUBTS_SHARE) if given.reassign and not given.has_closed_intents else 0
    requests = -(-doubts // DOUBTS_TOGETHER)
    with_each = count_tokens(REASSIGN_SYSTEM) + tokens_of_instructions(given.instructions) + CHOICES_TOKENS
    sent = requests * with_each + doubts * DOUBT_TOKENS
    return _Work(Phase.REASSIGNMENT, requests, -(-requests // given.streams), sent, doubts * DECISION_TOKENS)


def _phase(work: _Work, rates: Rates, speed: Speed, batch_rates: Rates | None) -> PhaseEstimate:
    """`batch_rates`: None where nothing is asked in batches."""
    if batch_rates is not None and work.phase in BATCHED:
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
    used = Usage(input_tokens=_compared_tokens(len(LabelKind), LABELS), output_tokens=replies)
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
