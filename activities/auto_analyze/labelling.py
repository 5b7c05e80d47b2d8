"""Label the sessions of a run: cut rounds, ask for a batch, condense what is too long, give up with a mark."""

import json
from collections.abc import Iterable, Mapping, Sequence

from temporalio import activity

from activities.auto_analyze.asking import ask
from activities.boundary import boundary
from activities.paid_call import PaidCalls
from parley.domain.auto_analyze.batching import (
    BYTES_PER_LABEL_TOKEN,
    affordable,
    fits,
    parts,
    prompt_budget,
    round_batches,
    tokens_of_labels,
)
from parley.domain.auto_analyze.contract import (
    AskOutcome,
    BatchStep,
    ClassifyOutcome,
    ClassifyStep,
    CondenseStep,
    GiveUpStep,
    LabelKind,
    OpenRound,
    Round,
    UsedByStep,
)
from parley.domain.auto_analyze.prompts import classification_request, condense_request
from parley.domain.auto_analyze.validation import SessionLabels, Verdict, fallback_labels, judge, no_text_labels
from parley.domain.capabilities import UNKNOWN_MODEL, narrower, window
from parley.domain.errors import ContextTooLong
from parley.domain.requests import ChatReply
from parley.storage import auto_analyze as runs
from parley.storage.auto_analyze import Work
from parley.storage.database import Database

UNREADABLE_CHARACTERS = 2000


class LabellingActivities:
    """Activities of one worker, on its database and its providers."""

    def __init__(self, database: Database, paid_calls: PaidCalls) -> None:
        self._database, self._paid_calls = database, paid_calls

    @activity.defn(name="auto_analyze.open_round")
    @boundary
    async def open_round(self, step: OpenRound) -> Round:
        """Cut the next sessions into a batch per stream, by what fits with the labels known so far."""
        asked, model = step.job.input, step.candidate.model
        async with self._database.transaction() as tx:
            known = await runs.known_labels(tx, asked.workspace_id, step.job.job_key, step.number)
            limit = step.streams * (asked.sessions_per_stream or window(model).cap)
            tokens = await runs.tokens_from(tx, asked.workspace_id, step.job.job_key, step.start, limit)
        room = tokens_of_labels(affordable(known, model))
        batches = round_batches(tokens, step.start, step.streams, model, asked.sessions_per_stream, room)
        taken = sum(batch.count for batch in batches)
        return Round(number=step.number, batches=batches, next_ordinal=step.start + taken)

    @activity.defn(name="auto_analyze.classify")
    @boundary
    async def classify(self, step: ClassifyStep) -> ClassifyOutcome:
        """Label a batch in one request; what the reply leaves out is named, not guessed.

        Raises:
            ContextTooLong: what is made for the smallest window is too long for this candidate.
        """
        asked, job_key = step.job.input, step.job.job_key
        async with self._database.transaction() as tx:
            work = await runs.load_work(tx, asked.workspace_id, job_key, step.ordinals)
            known = affordable(await runs.known_labels(tx, asked.workspace_id, job_key, step.round), step.sized_for)
        label_tokens = tokens_of_labels(known)
        oversized = _oversized(work, prompt_budget(step.sized_for, label_tokens, len(work)))
        if oversized:
            return ClassifyOutcome(oversized=oversized)
        found = {item.ordinal: no_text_labels(item.session.containment) for item in work if not _has_text(item)}
        spoken = {f"s{item.ordinal}": item for item in work if _has_text(item)}
        outcome = ClassifyOutcome()
        if spoken:
            if not _fits_candidate(step, spoken.values(), label_tokens):
                return _too_long(step, work)
            try:
                verdict, used = await self._labels_of(step, spoken, known)
            except ContextTooLong:
                if step.sized_for == UNKNOWN_MODEL:
                    raise
                return _too_long(step, work)
            found |= {spoken[name].ordinal: labels for name, labels in verdict.labels.items()}
            missing = tuple(spoken[name].ordinal for name in verdict.missing)
            outcome = ClassifyOutcome(**used.model_dump(), missing=missing, invented=verdict.invented)
        kept = await self._keep(step, found)
        return outcome.model_copy(update=kept)

    async def _labels_of(
        self, step: ClassifyStep, work: Mapping[str, Work], known: Mapping[LabelKind, Sequence[str]]
    ) -> tuple[Verdict, UsedByStep]:
        """Ask for the labels of these sessions, and judge the reply."""
        condensed = {name: item.condensed for name, item in work.items() if item.condensed}
        request = classification_request({name: item.session for name, item in work.items()}, known, condensed)
        name = step.request_step([work[name].ordinal for name in condensed])
        reply, used = await ask(self._paid_calls, step.job, step.candidate, name, request)
        return judge(reply, {name: item.session.containment for name, item in work.items()}), used

    @activity.defn(name="auto_analyze.condense")
    @boundary
    async def condense(self, step: CondenseStep) -> AskOutcome:
        """Summarise an oversized session part by part; its label is then asked for on the summaries.

        Raises:
            ContextTooLong: parts that are cut for the smallest window are too long for this candidate.
        """
        asked, job_key = step.job.input, step.job.job_key
        async with self._database.transaction() as tx:
            [item] = await runs.load_work(tx, asked.workspace_id, job_key, [step.ordinal])
        if item.condensed is not None:
            return AskOutcome()
        model = step.candidate.model
        if narrower(model, step.sized_for):
            return AskOutcome(too_long_for=model)
        pieces = parts(item.session.messages, item.tokens, prompt_budget(step.sized_for, 0))
        total, summaries = AskOutcome(), list[str]()
        for number, piece in enumerate(pieces):
            request = condense_request(piece, number, len(pieces))
            try:
                reply, used = await ask(self._paid_calls, step.job, step.candidate, step.request_step(number), request)
            except ContextTooLong:
                if step.sized_for == UNKNOWN_MODEL:
                    raise
                return total.model_copy(update={"too_long_for": model})
            summaries.append(_summary(reply))
            total = AskOutcome(tokens=total.tokens + used.tokens, cost_usd=total.cost_usd + used.cost_usd)
        async with self._database.transaction() as tx:
            await runs.keep_condensed(tx, asked.workspace_id, job_key, step.ordinal, "\n".join(summaries))
        return total

    @activity.defn(name="auto_analyze.give_up")
    @boundary
    async def give_up(self, step: GiveUpStep) -> ClassifyOutcome:
        """The fallback classification, marked, for sessions that no reply could be used for."""
        async with self._database.transaction() as tx:
            work = await runs.load_work(tx, step.job.input.workspace_id, step.job.job_key, step.ordinals)
        kept = await self._keep(step, {item.ordinal: fallback_labels(item.session.containment) for item in work})
        return ClassifyOutcome().model_copy(update=kept)

    async def _keep(self, step: BatchStep, found: Mapping[int, SessionLabels]) -> dict[str, int]:
        async with self._database.transaction() as tx:
            new = await runs.keep_labels(
                tx,
                step.job.input.workspace_id,
                step.job.job_key,
                found,
                phase=step.phase,
                round_number=step.round,
                stream=step.stream,
            )
        return {"labelled": len(found), "new_labels": new}


def _has_text(item: Work) -> bool:
    return item.session.has_user_text


def _oversized(work: Sequence[Work], budget: int) -> tuple[int, ...]:
    return tuple(item.ordinal for item in work if item.condensed is None and item.tokens > budget and _has_text(item))


def _fits_candidate(step: ClassifyStep, work: Iterable[Work], label_tokens: int) -> bool:
    """Whether the candidate has room for what is made for another model. Some servers do not say so, and cut."""
    model = step.candidate.model
    if step.sized_for in (UNKNOWN_MODEL, model):
        return True
    sizes = [_prompt_tokens(item) for item in work]
    return fits(sum(sizes), len(sizes), model, label_tokens)


def _prompt_tokens(item: Work) -> int:
    return item.tokens if item.condensed is None else len(item.condensed.encode()) // BYTES_PER_LABEL_TOKEN


def _too_long(step: ClassifyStep, work: Sequence[Work]) -> ClassifyOutcome:
    """A session that is too long although it is alone is to be condensed, unless it is."""
    whole = tuple(item.ordinal for item in work if item.condensed is None)
    return ClassifyOutcome(too_long_for=step.candidate.model, oversized=whole if len(work) == 1 else ())


def _summary(reply: ChatReply) -> str:
    """The condensed text; a reply that is not as the schema says is used as it is, cut to a length."""
    try:
        return str(json.loads(reply.text)["summary"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:UNREADABLE_CHARACTERS]
