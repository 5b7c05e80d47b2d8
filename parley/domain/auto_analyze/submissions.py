"""What the workflow of a run and its activities exchange about its submissions to a provider's batch API."""

from decimal import Decimal
from typing import Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from parley.domain.auto_analyze.contract import Job
from parley.domain.auto_analyze.processing import Purpose
from parley.domain.auto_analyze.steps import ReassignOutcome
from parley.domain.model import Model
from parley.domain.routing import Candidate


class SubmissionStep(Model):
    """A step on one submission of a run. number: from 1. purpose: what its requests are for."""

    job: Job
    candidate: Candidate
    number: int
    purpose: Purpose = "labels"

    @property
    def submission_id(self) -> UUID:
        """The same for each try of the step, so that none is submitted twice."""
        return uuid5(NAMESPACE_URL, f"{self.job.input.workspace_id}/{self.job.job_key}/submission-{self.number}")


class Submit(SubmissionStep):
    """Reserve the requests of the batches of sessions from `first` on, as many as fit, and send them as one."""

    first: int


class Submitted(Model):
    """What was sent.

    lines: its requests; 0 if none was left to send. next_step: the first batch of sessions after them; None: none is
    left. refused: why the provider does not take them; empty if it does.
    """

    lines: int
    next_step: int | None
    refused: str = ""


class PollSubmission(SubmissionStep):
    """See how far the provider is. cancel: ask it to stop."""

    cancel: bool = False


class PolledSubmission(Model):
    """How far the provider is. processed: requests that it has done.

    state: `none` if nothing was sent, since the run was cancelled before.
    """

    state: Literal["none", "working", "ended"]
    processed: int = 0


class SettleSubmission(SubmissionStep):
    """Settle every request of a submission that has ended, and use the replies.

    give_up: it has not ended. It is cancelled once more, and what requests without a reply may cost stays uncertain.
    """

    give_up: bool = False


class SettledSubmission(Model):
    """How the requests ended: see `BatchFigures`. problem: why the provider has answered none or not all.

    second_look: what the replies are, if they are those of the second look.
    """

    answered: int = 0
    left_over: int = 0
    odd_lines: int = 0
    saved_usd: Decimal = Decimal(0)
    invented: int = 0
    labels_left_out: int = 0
    problem: str = ""
    second_look: ReassignOutcome | None = None
