"""Short sessions of free users share one request for coaching: which may, and how a collector gathers them."""

from pydantic import Field

from parley.domain.joint import MOST_MEMBERS
from parley.domain.model import Model, WorkspaceId
from parley.domain.routing import Candidate
from parley.domain.session import Session
from parley.domain.session_analysis import FREE_TIER, StepOutcome

WORKFLOW = "CoachingCollector"


def may_share(session: Session, tier: str) -> bool:
    """Whether a session may wait for others to share a request: those of paying users never wait."""
    return tier == FREE_TIER and session.is_short


class CollectedJob(Model):
    """An analysis whose coaching waits in a collector. `after_voice`: its voice is measured already."""

    job_key: str
    workflow_id: str
    prospect_id: str | None = None
    after_voice: bool = False


class CollectorInput(Model):
    """What is collected: sessions of one workspace, for one model, under one version of a rubric.

    seconds: the longest time that a job waits. waiting: those that the run before has left.
    """

    workspace_id: WorkspaceId
    candidate: Candidate
    rubric: str
    seconds: float = Field(ge=0)
    waiting: tuple[CollectedJob, ...] = ()

    @property
    def workflow_id(self) -> str:
        """One collector gathers all that can share a request."""
        return "/".join(
            (
                "coaching-collector",
                self.workspace_id,
                self.candidate.provider.value,
                self.candidate.model,
                self.rubric,
            )
        )


class CollectStep(Model):
    """Add a job to a collector, which is started if it does not run."""

    collector: CollectorInput
    job: CollectedJob


class Collected(Model):
    """The job waits in the collector of this workflow id."""

    collector_id: str


class JointStep(Model):
    """Request the coaching of several jobs by one request."""

    workspace_id: WorkspaceId
    candidate: Candidate
    jobs: tuple[CollectedJob, ...] = Field(min_length=1, max_length=MOST_MEMBERS)


class JointOutcome(Model):
    """The outcome for each job, in their order. None: it has no reply, and requests its coaching alone."""

    outcomes: tuple[StepOutcome | None, ...]


class CollectedOutcome(Model):
    """The outcome for one job, as its workflow is sent it."""

    job_key: str
    outcome: StepOutcome | None = None
