"""The paid steps of a run: label a batch, condense a session that is too long, find duplicate labels."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from temporalio import activity

from activities.auto_analyze.evidence import comparison, store_merges
from activities.auto_analyze.nearest import KnownLabels, store_first_sessions
from activities.auto_analyze.reassigning import KnownChoices, doubts_at_once, doubts_of
from activities.auto_analyze.runs import store_labels
from activities.boundary import boundary
from activities.paid_call import PaidCalls
from parley.domain.auto_analyze.batching import (
    BYTES_PER_LABEL_TOKEN,
    compared_at_once,
    fits,
    parts,
    prompt_budget,
)
from parley.domain.auto_analyze.contract import (
    ACTION,
    ClassifyOutcome,
    ClassifyStep,
    CondenseStep,
    Job,
    ReassignOutcome,
    ReassignStep,
    RequestOutcome,
    ResolveOutcome,
    ResolveStep,
    StepUsage,
)
from parley.domain.auto_analyze.evidence import opening
from parley.domain.auto_analyze.merging import read_merges
from parley.domain.auto_analyze.nearest import Shown
from parley.domain.auto_analyze.prompts import (
    classification_request,
    condense_request,
    reassignment_request,
    resolution_request,
)
from parley.domain.auto_analyze.reassigning import read_decisions
from parley.domain.auto_analyze.validation import Verdict, judge, no_text_labels
from parley.domain.capabilities import UNKNOWN_MODEL, narrower
from parley.domain.errors import ContextTooLong, EmptyReply
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, ChatRequest, Finish, Usage, request_id
from parley.domain.routing import Candidate
from parley.storage import auto_analyze as runs
from parley.storage import reassignments
from parley.storage.auto_analyze import Work
from parley.storage.database import Database
from parley.storage.ledger import Charge

MALFORMED_SUMMARY_CHARACTERS = 2000


class LabellingActivities:
    """Activities of one worker, on its database and its providers."""

    def __init__(self, database: Database, paid_calls: PaidCalls) -> None:
        self._database, self._paid_calls = database, paid_calls
        self._known, self._choices = KnownLabels(), KnownChoices()

    @activity.defn(name="auto_analyze.classify")
    @boundary
    async def classify(self, step: ClassifyStep) -> ClassifyOutcome:
        """Label sessions in one request. Sessions without usable labels in the reply are returned as missing.

        Raises:
            ContextTooLong: a prompt that is made for the smallest window is too long for this candidate.
        """
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        async with self._database.transaction() as tx:
            work = await runs.load_work(tx, workspace_id, job_key, step.ordinals)
            known = await self._known.of(tx, step)
        shown = await asyncio.to_thread(known.shown, [opening(item.session.messages) for item in work], step.sized_for)
        label_tokens = shown.tokens
        oversized = _oversized(work, prompt_budget(step.sized_for, label_tokens, len(work)))
        if oversized:
            return ClassifyOutcome(oversized=oversized)
        found = {item.ordinal: no_text_labels(item.session.containment) for item in work if not _has_text(item)}
        with_text = {f"s{item.ordinal}": item for item in work if _has_text(item)}
        outcome = ClassifyOutcome()
        if with_text:
            if not _fits_candidate(step, with_text.values(), label_tokens):
                return _too_long(step, work)
            try:
                verdict, usage = await self._request_labels(step, with_text, shown)
            except ContextTooLong:
                if step.sized_for == UNKNOWN_MODEL:
                    raise
                return _too_long(step, work)
            found |= {with_text[name].ordinal: labels for name, labels in verdict.labels.items()}
            missing = tuple(with_text[name].ordinal for name in verdict.missing)
            outcome = ClassifyOutcome(**usage.model_dump(), missing=missing, invented=verdict.invented)
        stored = await store_labels(self._database, step, found)
        await store_first_sessions(self._database, step, found, work)
        counted = {"labelled": stored.labelled, "new_labels": stored.new_labels, "omitted_labels": shown.omitted}
        return outcome.model_copy(update=counted)

    @activity.defn(name="auto_analyze.condense")
    @boundary
    async def condense(self, step: CondenseStep) -> RequestOutcome:
        """Condense an oversized session part by part. Its labels are then requested on the summaries.

        Raises:
            ContextTooLong: parts that are cut for the smallest window are too long for this candidate.
        """
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        async with self._database.transaction() as tx:
            [item] = await runs.load_work(tx, workspace_id, job_key, [step.ordinal])
        if item.condensed is not None:
            return RequestOutcome()
        model = step.candidate.model
        if narrower(model, step.sized_for):
            return RequestOutcome(too_long_for=model)
        cut = parts(item.session.messages, item.tokens, prompt_budget(step.sized_for, 0))
        total, summaries = RequestOutcome(), list[str]()
        for number, messages in enumerate(cut):
            request = condense_request(messages, number, len(cut))
            try:
                reply, usage = await self._request(step.job, step.candidate, step.request_step(number), request)
            except ContextTooLong:
                if step.sized_for == UNKNOWN_MODEL:
                    raise
                return total.model_copy(update={"too_long_for": model})
            summaries.append(_summary(reply))
            total = RequestOutcome(tokens=total.tokens + usage.tokens, cost_usd=total.cost_usd + usage.cost_usd)
        async with self._database.transaction() as tx:
            await runs.store_condensed(tx, workspace_id, job_key, step.ordinal, "\n".join(summaries))
        return total

    @activity.defn(name="auto_analyze.resolve")
    @boundary
    async def resolve(self, step: ResolveStep) -> ResolveOutcome:
        """Find the duplicates in one chunk of labels. The outcome says why a reply cannot be used.

        Raises:
            ContextTooLong: a chunk that is cut for the smallest window is too long for this candidate.
        """
        compared = await comparison(self._database, step.job, step.kind, step.level, step.sized_for)
        labels = compared.members(step.chunk)
        model = step.candidate.model
        if narrower(model, step.sized_for) and not compared_at_once(labels, model):
            return ResolveOutcome(too_long_for=model)
        request = resolution_request(step.kind, labels)
        try:
            reply, usage = await self._request(step.job, step.candidate, step.request_step, request)
        except ContextTooLong:
            if step.sized_for == UNKNOWN_MODEL:
                raise
            return ResolveOutcome(too_long_for=model)
        merges = read_merges(reply, labels, compared.likeness)
        merged = await store_merges(self._database, step, merges.mapping)
        counted = {"found": merges.found, "kept_apart": merges.refused, "merged": merged, "problem": merges.problem}
        return ResolveOutcome.model_validate(usage.model_dump() | counted)

    @activity.defn(name="auto_analyze.reassign")
    @boundary
    async def reassign(self, step: ReassignStep) -> ReassignOutcome:
        """Look again at the sessions of a batch whose intents are in doubt, and store which of them get another one.

        Raises:
            ContextTooLong: parts that are cut for the smallest window are too long for this candidate.
        """
        model = step.candidate.model
        if narrower(model, step.sized_for):
            return ReassignOutcome(too_long_for=model)
        choices = await self._choices.of(self._database, step.job)
        doubts = await doubts_of(self._database, step, choices)
        total = ReassignOutcome(looked_at=len(doubts))
        for number, part in enumerate(doubts_at_once(doubts, choices, step.sized_for)):
            named = {f"s{ordinal}": doubt for ordinal, doubt in part.items()}
            request = reassignment_request(named, choices.labels)
            try:
                reply, usage = await self._request(step.job, step.candidate, step.request_step(number), request)
            except ContextTooLong:
                if step.sized_for == UNKNOWN_MODEL:
                    raise
                return total.model_copy(update={"too_long_for": model})
            decisions = read_decisions(reply, named)
            better = {ordinal: decisions.better[f"s{ordinal}"] for ordinal in part if f"s{ordinal}" in decisions.better}
            async with self._database.transaction() as tx:
                await reassignments.store(tx, step.job.input.workspace_id, step.job.job_key, better)
            total = total.plus(usage, better=len(better), problem=decisions.problem)
        return total

    async def _request_labels(
        self, step: ClassifyStep, work: Mapping[str, Work], shown: Shown
    ) -> tuple[Verdict, StepUsage]:
        """Request the labels of these sessions, and judge the reply."""
        condensed = {name: item.condensed for name, item in work.items() if item.condensed}
        sessions = {name: item.session for name, item in work.items()}
        request = classification_request(sessions, shown.labels, condensed, shown.evidence)
        request_step = step.request_step([work[name].ordinal for name in condensed])
        reply, usage = await self._request(step.job, step.candidate, request_step, request)
        return judge(reply, {name: item.session.containment for name, item in work.items()}), usage

    async def _request(
        self, job: Job, candidate: Candidate, step: str, request: ChatRequest
    ) -> tuple[ChatReply, StepUsage]:
        """Make one paid request. Users are charged no energy for it; the job's budget limits its cost."""
        charge = Charge(
            workspace_id=job.input.workspace_id,
            user_id=job.input.user_id,
            job_key=job.job_key,
            workflow_id=job.workflow_id,
            request_id=request_id(job.job_key, step),
            action=ACTION,
            energy=0,
        )
        try:
            settled = await self._paid_calls.make(charge, request, candidate.provider, candidate.model)
        except EmptyReply as error:
            # No label is in it, as in any other reply that cannot be used: less is requested next.
            usage = error.usage or Usage()
            reply = ChatReply(text="", finish=Finish.LENGTH, usage=usage, model=candidate.model)
            return reply, StepUsage(tokens=usage.total_tokens)
        assert isinstance(settled.reply, ChatReply)  # noqa: S101 - it answers a chat request
        return settled.reply, StepUsage(tokens=settled.reply.usage.total_tokens, cost_usd=settled.cost_usd)


def _has_text(item: Work) -> bool:
    return item.session.has_user_text


def _oversized(work: Sequence[Work], budget: int) -> tuple[int, ...]:
    return tuple(item.ordinal for item in work if item.condensed is None and item.tokens > budget and _has_text(item))


def _fits_candidate(step: ClassifyStep, work: Iterable[Work], label_tokens: int) -> bool:
    """Whether a prompt that is made for another model fits the candidate. Some servers truncate without an error."""
    model = step.candidate.model
    if step.sized_for in (UNKNOWN_MODEL, model):
        return True
    sizes = [_prompt_tokens(item) for item in work]
    return fits(sum(sizes), len(sizes), model, label_tokens)


def _prompt_tokens(item: Work) -> int:
    return item.tokens if item.condensed is None else len(item.condensed.encode()) // BYTES_PER_LABEL_TOKEN


def _too_long(step: ClassifyStep, work: Sequence[Work]) -> ClassifyOutcome:
    """A single session that is too long has to be condensed, unless it is already."""
    whole = tuple(item.ordinal for item in work if item.condensed is None)
    return ClassifyOutcome(too_long_for=step.candidate.model, oversized=whole if len(work) == 1 else ())


def _summary(reply: ChatReply) -> str:
    """The summary in a reply. A reply that does not follow the schema is used as it is, cut to a length."""
    try:
        return str(read_reply_json(reply.text)["summary"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:MALFORMED_SUMMARY_CHARACTERS]
