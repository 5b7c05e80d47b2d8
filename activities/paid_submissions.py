"""Paid requests through a provider's batch API: claim each, send them together, settle each. docs/paid-call.md.

Each line of a batch is a paid request of its own, under the id of its attempt. An attempt holds its lease for longer
than a batch can take, so that no other attempt at its request is made meanwhile.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import BinaryIO, NamedTuple, TypeVar
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncSession

from activities.failpoints import Failpoints
from activities.logs import step_logger
from activities.metrics import Metrics
from activities.paid_call import breaker_terms
from activities.workspaces import Workspaces
from parley.domain.errors import Billed, ProviderError, ProviderNotConfigured, ProviderUnavailable, UnpricedModel
from parley.domain.masking import masked
from parley.domain.pricing import BATCH, ConfiguredRates, Rates, counted_cost, rates_for, upper_bound
from parley.domain.requests import ChatReply, Provider, Request, Usage
from parley.providers.batch_api import BatchApi, BatchStatus, Limits, LineResult, Sending
from parley.providers.registry import Providers
from parley.settings import Settings
from parley.storage import ledger, paid_requests, submissions
from parley.storage.database import Database
from parley.storage.ledger import Charge, Claim, Failure, Granted, Offer, Settlement, Terms
from parley.storage.tables import Submission, SubmissionLine, utc_now

# A batch takes a day at most. A run gives one up before the leases of its lines end.
LEASE_SECONDS = 48 * 3600.0
# In timeouts of a provider: how long a batch may take to be sent, and after which time it is certain that a worker that
# has begun to send one does not do so any more, and that a batch which exists is listed.
SEND_WITHIN, CERTAIN_AFTER = 10, 12
T = TypeVar("T")

log = step_logger(__name__)


class _LineFile:
    """The lines of a submission in a file of this machine, since they may be larger than this process should be."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self.lines, self._file, self._limits, self._bytes = 0, file, limits, 0

    def has_room(self, line: bytes) -> bool:
        return self.lines < self._limits.lines and self._bytes + len(line) < self._limits.bytes

    def add(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self.lines, self._bytes = self.lines + 1, self._bytes + len(line) + 1

    def from_start(self) -> BinaryIO:
        """The file of all lines, to be read."""
        self._file.seek(0)
        return self._file


@dataclass(frozen=True)
class LineRequest:
    """A request for a batch. step: of its job. fingerprint: of what is asked."""

    charge: Charge
    request: Request
    fingerprint: str
    step: int


class SettledLines(NamedTuple):
    """How the lines of a submission ended. problem: why the provider has not answered all of them."""

    answered: int
    left_over: int
    odd_lines: int
    saved_usd: Decimal
    problem: str


@dataclass(frozen=True)
class SubmissionDraft:
    """A submission that is being put together. See `PaidSubmissions.drafting`."""

    row: Submission
    api: BatchApi
    file: _LineFile

    @property
    def lines(self) -> int:
        return self.file.lines


class _Price(NamedTuple):
    """cost_usd: None where it is not known. saved_usd: what the same reply would have cost more at the usual price."""

    cost_usd: Decimal | None
    rates: Rates
    saved_usd: Decimal


class PaidSubmissions:
    """Every request to a batch API goes through here."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        workspaces: Workspaces,
        providers: Providers,
        metrics: Metrics | None = None,
    ) -> None:
        self._database, self._metrics = database, metrics or Metrics()
        self._workspaces, self._providers = workspaces, providers
        self._failpoints = Failpoints(settings.failpoints)
        self._settle_seconds = settings.settle_timeout_seconds
        timeout = timedelta(seconds=settings.provider_timeout_seconds)
        self._send_within, self._certain_after = SEND_WITHIN * timeout, CERTAIN_AFTER * timeout
        self._rates = ConfiguredRates.of(settings)
        self._terms = Terms(
            lease_seconds=LEASE_SECONDS, reservation_seconds=LEASE_SECONDS, breaker=breaker_terms(settings)
        )

    async def begin(self, workspace_id: str, submission_id: UUID, job_key: str, provider: Provider) -> Submission:
        """A submission, new or as an earlier try left it. It is `sent` if the provider turns out to have it.

        Raises:
            ProviderUnavailable: it is not certain yet whether the provider has it.
            ProviderError: the provider's list of batches cannot be read.
        """
        row = Submission(id=submission_id, workspace_id=workspace_id, job_key=job_key, provider=provider.value)
        found = await self._persist(partial(submissions.begin, submission=row))
        return await self._reconciled(found) if found.state == "sending" else found

    @asynccontextmanager
    async def drafting(self, submission: Submission) -> AsyncGenerator[SubmissionDraft]:
        """Put a submission together: `add` its requests, then `send` it.

        Raises:
            ProviderNotConfigured: the provider has no batch API, or no key.
        """
        async with self._api(submission.workspace_id, Provider(submission.provider)) as api:
            # It has no name: what users said does not stay on the disk if this process is killed.
            with tempfile.TemporaryFile() as file:
                yield SubmissionDraft(submission, api, _LineFile(file, api.limits))

    @asynccontextmanager
    async def _api(self, workspace_id: str, provider: Provider) -> AsyncGenerator[BatchApi]:
        """The provider's batch API, with the key of the workspace."""
        terms = await self._workspaces.terms_of(workspace_id)
        await self._providers.load(provider)
        api = self._providers.batch_api(provider, terms.key_of(provider))
        try:
            yield api
        finally:
            await api.close()

    async def add(self, into: SubmissionDraft, asked: LineRequest, model: str) -> bool:
        """Claim a request and add its line to a submission. Returns False if that has no room for it.

        A request that has its reply, or that another attempt makes, is left out.

        Raises:
            UnpricedModel, ProviderNotConfigured, BudgetExhausted, BreakerOpen: nothing was reserved for it.
        """
        submission, workspace_id, provider = into.row, into.row.workspace_id, Provider(into.row.provider)
        terms = await self._workspaces.terms_of(workspace_id)
        sent = masked(asked.request, terms.masked)
        attempt_id = uuid5(submission.id, asked.charge.request_id)
        line = into.api.line(sent, model, str(attempt_id))
        if not into.file.has_room(line):
            return False
        bound, rates = upper_bound(provider, model, sent, self._rates, BATCH)
        access = self._providers.access(provider, terms.key_of(provider))
        offer = Offer(
            provider=provider,
            model=model,
            simulated=access is not None and access.simulated,
            shares_key=terms.key_of(provider) is None,
            upper_bound_usd=bound,
            rates=rates,
        )
        claim = Claim(asked.charge, asked.fingerprint, offer, self._terms, attempt_id)
        row = SubmissionLine(
            attempt_id=attempt_id, workspace_id=workspace_id, submission_id=submission.id, step=asked.step
        )

        async def claim_line(tx: AsyncSession) -> bool:
            if not isinstance(await ledger.claim(tx, claim), Granted):
                return False
            await submissions.add_line(tx, row)
            return True

        if await self._persist(claim_line):
            into.file.add(line)
        return True

    async def send(self, given: SubmissionDraft, next_step: int | None) -> Submission:
        """Send a submission. Returns the submission: `sent`, or `refused` by the provider.

        Raises:
            ProviderError: it was not sent, or it is not known whether it was: call `begin` and send it again.
        """
        submission, lines = given.row, given.file.from_start()
        sending = await self._change(submission, state="sending", next_step=next_step, sent_at=utc_now())
        known = await self._sending(sending)
        await self._failpoints.reach("submitting", submission.job_key)
        try:
            async with asyncio.timeout(self._send_within.total_seconds()):
                vendor_id = await given.api.submit(lines, known)
        except TimeoutError:
            raise ProviderUnavailable(submission.provider, "the batch was not sent in time") from None
        except ProviderError as error:
            if error.billed is not Billed.NO:
                raise
            if error.retryable:
                await self._change(sending, state="claiming")
                raise
            await self._end_open(sending, _not_billed(error))
            return await self._change(sending, state="refused", problem=error.detail)
        await self._failpoints.reach("submitted", submission.job_key)
        return await self._change(sending, state="sent", vendor_id=vendor_id)

    async def end_empty(self, submission: Submission) -> None:
        """A submission that has no line is over."""
        await self._change(submission, state="ended")

    async def poll(self, workspace_id: str, submission_id: UUID, *, cancel: bool) -> BatchStatus:
        """How far the provider is with a submission. cancel: ask it to stop.

        Raises:
            NotFound: the workspace has no such submission.
            ProviderError: the provider does not say.
        """
        found = await self._persist(partial(submissions.find, workspace_id=workspace_id, submission_id=submission_id))
        if found.state == "sending":
            found = await self._reconciled(found)
        if found.state != "sent" or found.vendor_id is None:
            return BatchStatus("ended")
        async with self._api(workspace_id, Provider(found.provider)) as api:
            if cancel:
                await api.cancel(found.vendor_id)
            return await api.status(found.vendor_id)

    async def settle(self, workspace_id: str, submission_id: UUID, *, give_up: bool = False) -> SettledLines:
        """Settle each line with a reply, and end the others, which can be asked again. Idempotent.

        Args:
            give_up: the provider is asked to cancel what it has not ended. What it does with a line that has no result
                is not known; its cost stays uncertain.

        Raises:
            NotFound: the workspace has no such submission.
            ProviderError, ProviderNotConfigured: the results cannot be read now. Not raised where it gives up.
        """
        found = await self._persist(partial(submissions.find, workspace_id=workspace_id, submission_id=submission_id))
        known = await self._persist(partial(submissions.lines, workspace_id=workspace_id, submission_id=submission_id))
        reading = _Reading(known)
        failure = Failure("NotSent", "the batch was not sent", Billed.NO, trips_breaker=False)
        if found.state in ("sent", "sending"):
            failure = await self._read_results(found, reading, give_up=give_up)
        await self._end_open(found, failure)
        if found.state not in ("refused", "ended"):
            found = await self._change(found, state="ended", **reading.figures)
        of_submission = {"workspace_id": workspace_id, "submission_id": submission_id}
        answered = await self._persist(partial(submissions.attempts_in, state="settled", **of_submission))
        left_over = len(known) - len(answered)
        return SettledLines(len(answered), left_over, found.odd_lines, found.saved_usd, found.problem)

    async def _read_results(self, submission: Submission, reading: "_Reading", *, give_up: bool) -> Failure:
        """End each line that has a result. Returns how the others failed.

        give_up: the provider is asked to cancel what it has not ended, since it bills replies that are not read too.
        """
        name = submission.provider
        unknown = Failure(
            ProviderUnavailable.__name__, "the batch has no result for it", Billed.UNKNOWN, trips_breaker=False
        )
        try:
            async with self._api(submission.workspace_id, Provider(name)) as api:
                vendor_id = submission.vendor_id or await api.find(await self._sending(submission))
                if vendor_id is None:
                    return unknown
                status = await _last_status(api, vendor_id) if give_up else await api.status(vendor_id)
                reading.problem = status.problem
                if status.state == "rejected":
                    detail = status.problem or "the batch was refused"
                    return replace(unknown, error_type="BatchRejected", detail=detail, billed=Billed.NO)
                if status.state == "working":
                    raise ProviderUnavailable(name, "the batch has not ended", billed=Billed.NO)
                async for result in api.results(vendor_id):
                    await self._end(submission, reading, result)
        except (ProviderError, ProviderNotConfigured) as error:
            if not give_up:
                raise
            reading.problem = error.detail if isinstance(error, ProviderError) else str(error)
            return unknown
        if status.is_complete:
            return unknown
        return replace(unknown, detail="the batch ended before it was answered", billed=Billed.NO)

    async def _end(self, submission: Submission, reading: "_Reading", result: LineResult) -> None:
        """End the attempt of a line."""
        attempt_id = reading.take(result)
        if attempt_id is None:
            return
        work = self._settle_line if result.reply is not None else self._fail_line
        reading.saved_usd += await self._persist(
            partial(work, workspace_id=submission.workspace_id, attempt_id=attempt_id, result=result)
        )

    async def _settle_line(self, tx: AsyncSession, workspace_id: str, attempt_id: UUID, result: LineResult) -> Decimal:
        """Returns what the batch saved."""
        reply = result.reply
        assert isinstance(reply, ChatReply)  # noqa: S101 - it is called for these
        attempt = (await paid_requests.lock_with_attempt(tx, workspace_id, attempt_id)).attempt
        price = self._price(Provider(attempt.provider), attempt.model, attempt.rates, reply.usage)
        was_open = attempt.state == "open"
        await ledger.settle(tx, Settlement(workspace_id, attempt_id, reply, price.cost_usd, price.rates))
        await self._failpoints.reach("settling", "")
        if was_open:
            self._metrics.attempt_ended(
                Provider(attempt.provider),
                attempt.model,
                "batch",
                "settled",
                attempt.upper_bound_usd if price.cost_usd is None else price.cost_usd,
                reply.usage,
                None,
                confirmed=price.cost_usd is not None,
            )
        return price.saved_usd

    async def _fail_line(self, tx: AsyncSession, workspace_id: str, attempt_id: UUID, result: LineResult) -> Decimal:
        """Returns 0: a line without a reply saves nothing."""
        error = result.error
        assert error is not None  # noqa: S101 - it is called for these
        failure = (
            _not_billed(error)
            if error.billed is Billed.NO
            else Failure(error.code, error.detail, error.billed, trips_breaker=False)
        )
        if error.usage is not None:
            attempt = (await paid_requests.lock_with_attempt(tx, workspace_id, attempt_id)).attempt
            price = self._price(Provider(attempt.provider), attempt.model, attempt.rates, error.usage)
            failure = replace(failure, usage=error.usage, cost_usd=price.cost_usd, rates=price.rates)
        await ledger.fail(tx, workspace_id, attempt_id, failure, self._terms)
        return Decimal(0)

    def _price(self, provider: Provider, model: str, claimed: object, usage: Usage) -> _Price:
        """What a reply costs. `claimed`: the rates of the claim, which count if the list has the model no more."""
        try:
            rates = rates_for(provider, model, self._rates, usage.input_tokens, usage.price_class)
            usual = counted_cost(usage, rates_for(provider, model, self._rates, usage.input_tokens))
        except UnpricedModel:
            rates, usual = Rates.model_validate(claimed), None
        cost = counted_cost(usage, rates)
        saved = Decimal(0) if cost is None or usual is None else usual - cost
        return _Price(cost, rates, saved)

    async def _end_open(self, submission: Submission, failure: Failure) -> None:
        """End the lines that have no result."""
        of_submission = {"workspace_id": submission.workspace_id, "submission_id": submission.id}
        for attempt_id in await self._persist(partial(submissions.attempts_in, state="open", **of_submission)):
            await self._persist(
                partial(
                    ledger.fail,
                    workspace_id=submission.workspace_id,
                    attempt_id=attempt_id,
                    failure=failure,
                    terms=self._terms,
                )
            )

    async def _reconciled(self, submission: Submission) -> Submission:
        """A submission of which it is not known whether it was sent: `sent` if the provider has it.

        It may be sent again only when it is certain that the provider has it not: it is not listed, and the request
        that would have created it must have ended.
        """
        sending = await self._sending(submission)
        async with self._api(submission.workspace_id, Provider(submission.provider)) as api:
            vendor_id = await api.find(sending)
        if vendor_id is not None:
            log.info("the batch %s was sent before", vendor_id)
            return await self._change(submission, state="sent", vendor_id=vendor_id)
        age = utc_now() - sending.sent_at
        if age < self._certain_after:
            raise ProviderUnavailable(
                submission.provider,
                "it is not certain yet whether the batch was accepted",
                retry_after=(self._certain_after - age).total_seconds(),
                billed=Billed.NO,
            )
        return await self._change(submission, state="claiming")

    async def _sending(self, submission: Submission) -> Sending:
        of_submission = {"workspace_id": submission.workspace_id, "submission_id": submission.id}
        known = await self._persist(partial(submissions.lines, **of_submission))
        return Sending(
            submission_id=str(submission.id),
            lines=len(known),
            attempt_ids=frozenset(map(str, known)),
            sent_at=submission.sent_at or utc_now(),
        )

    async def _change(self, submission: Submission, **values: object) -> Submission:
        """Raises: ProviderUnavailable: another try of the same step has changed it, and goes on."""
        of_submission = {"workspace_id": submission.workspace_id, "submission_id": submission.id}
        changed = await self._persist(partial(submissions.change, was=submission, **of_submission, **values))
        if changed is None:
            raise ProviderUnavailable(submission.provider, "another try of the step is at the batch", billed=Billed.NO)
        return changed

    async def _persist(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """One transaction, repeated while the database is unreachable. What it does is idempotent."""
        return await self._database.retried(work, seconds=self._settle_seconds)


class _Reading:
    """The results that were read so far. `known`: the attempts of the submission."""

    def __init__(self, known: set[UUID]) -> None:
        self._left, self._known = set(known), known
        self.odd_lines, self.saved_usd, self.problem = 0, Decimal(0), ""

    @property
    def figures(self) -> dict[str, object]:
        """As columns of the submission."""
        return {"odd_lines": self.odd_lines, "saved_usd": self.saved_usd, "problem": self.problem}

    def take(self, result: LineResult) -> UUID | None:
        """The attempt that a result is for. None for a line that is unknown, comes again or cannot be read."""
        try:
            attempt_id = UUID(result.attempt_id)
        except ValueError:
            attempt_id = None
        if attempt_id not in self._left or (result.reply is None and result.error is None):
            self.odd_lines += 1
            return None
        self._left.discard(attempt_id)
        return attempt_id


async def _last_status(api: BatchApi, vendor_id: str) -> BatchStatus:
    """The status of a batch that is given up: cancelled, if it has not ended."""
    status = await api.status(vendor_id)
    if status.state != "working":
        return status
    await api.cancel(vendor_id)
    return await api.status(vendor_id)


def _not_billed(error: ProviderError) -> Failure:
    return Failure(error.code, error.detail, Billed.NO, trips_breaker=False, cost_usd=Decimal(0))
