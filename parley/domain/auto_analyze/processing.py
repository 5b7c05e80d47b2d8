"""How the requests of a run are made: one by one as the streams need them, or in batches at half price."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime

from parley.domain.errors import InvalidInput
from parley.domain.model import Model
from parley.domain.requests import CHAT_PROVIDERS, Provider
from parley.domain.routing import Candidate

Processing = Literal["realtime", "batch"]
# What the requests of a submission are for: the labels of the streams, or the second look.
Purpose = Literal["labels", "second look"]
# The providers with a batch API.
BATCH_PROVIDERS = (Provider.OPENAI, Provider.ANTHROPIC)
NO_BATCH_API = "has no batch API: use --processing realtime, or one of the providers " + ", ".join(BATCH_PROVIDERS)


class BatchFigures(Model):
    """What a run has asked in batches.

    submitted: requests that were sent in a batch. processed: those of open batches that the provider has done so far.
    answered: those with a reply. left_over: those without one, which were made again one by one. odd_lines: lines of
    results that belong to no request, came twice or could not be read. saved_usd: what the replies would have cost
    more at the usual price.
    """

    submitted: int = 0
    processed: int = 0
    answered: int = 0
    left_over: int = 0
    odd_lines: int = 0
    saved_usd: Decimal = Decimal(0)


class OpenSubmission(Model):
    """A submission that is not settled.

    processed: requests that the provider has done so far. cancelled_at: when it was first asked to cancel the rest.
    """

    number: int
    sent_at: AwareDatetime
    processed: int = 0
    cancelled_at: AwareDatetime | None = None

    @property
    def changed_at(self) -> AwareDatetime:
        """When it was sent, or cancelled."""
        return self.cancelled_at or self.sent_at


class Submissions(Model):
    """How far a run has come with its submissions to a batch API.

    number: of the last one, from 1. purpose: of the last ones. next_step: the first batch of sessions that is in none
    of these; None: no further one is submitted. ended: the figures of all that are settled, with all that were
    submitted.
    """

    number: int = 0
    purpose: Purpose = "labels"
    next_step: int | None = 0
    open: tuple[OpenSubmission, ...] = ()
    ended: BatchFigures = BatchFigures()

    @property
    def figures(self) -> BatchFigures | None:
        """The figures as they are now; None if nothing was submitted."""
        if not self.ended.submitted:
            return None
        return self.ended.model_copy(update={"processed": sum(one.processed for one in self.open)})


def with_batch_api(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates in their order, those with a batch API first: the first one gets the batches.

    Raises:
        InvalidInput: none has one.
    """
    able = [one for one in candidates if one.provider in BATCH_PROVIDERS]
    if not able:
        named = ", ".join(one.provider.value for one in candidates) or ", ".join(CHAT_PROVIDERS)
        raise InvalidInput(f"{named} {NO_BATCH_API}", where="auto-analyze", field="processing")
    return (*able, *(one for one in candidates if one not in able))
