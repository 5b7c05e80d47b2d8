"""A schedule: what each actor does, the order in which the round trips reach PostgreSQL, and the faults."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from hypothesis import strategies as st

from parley.domain.budgets import Period

ACTORS = 3
# Before midnight, so that a lease that runs out ends on the next day: in the middle of a week, and at the end of a week
# that is also the end of a month.
BEGINNINGS = (datetime(2027, 1, 13, 23, 59, 30, tzinfo=UTC), datetime(2027, 1, 31, 23, 59, 30, tzinfo=UTC))
LEASE_SECONDS, RESERVATION_SECONDS = 60, 3600
# How long an actor waits: until a lease has run out, a reservation, or the day.
PERIODS = (LEASE_SECONDS + 1, LEASE_SECONDS + 1, RESERVATION_SECONDS, 86_400)


class Fault(StrEnum):
    """What happens to an actor's session. The last two happen at its next COMMIT."""

    NONE = "none"
    KILLED = "killed"
    COMMIT_LOST = "commit lost"  # the connection breaks before the server gets it
    ANSWER_LOST = "answer lost"  # the connection breaks after the server executed it


@dataclass(frozen=True)
class Turn:
    """One round trip: of which of the actors that can go on, and what happens to its session.

    dies: after the fault the actor does not repeat what it did, like a worker that is killed.
    """

    choice: int = 0
    fault: Fault = Fault.NONE
    dies: bool = False


class Outcome(StrEnum):
    """What the provider does with an attempt, and what it bills."""

    CHEAP = "answered, below the bound"
    AT_BOUND = "answered, at the bound"
    ABOVE = "answered, above the bound"
    UNCOUNTED = "answered, with counts that cannot be true"
    REFUSED = "refused, not billed"
    CUT = "no answer, perhaps billed"
    BILLED = "no answer, billed"


ANSWERED = (Outcome.CHEAP, Outcome.AT_BOUND, Outcome.ABOVE, Outcome.UNCOUNTED)


@dataclass(frozen=True)
class Claim:
    """Claim a request: see `actors.REQUESTS`.

    bounds: its upper bound, in multiples of the smallest. supersedes: an attempt of the same stream, counted back from
    the newest, if its request comes before this one or is the same.
    """

    workspace: int
    request: int
    outcome: Outcome
    bounds: int
    provider: int
    supersedes: int | None = None


@dataclass(frozen=True)
class End:
    """End an attempt as its provider did: settle its reply, or fail. `attempt`: counted back from the newest."""

    attempt: int
    trips_breaker: bool


@dataclass(frozen=True)
class Call:
    """A whole paid call: claim, and end the attempt that was granted."""

    claim: Claim
    trips_breaker: bool


@dataclass(frozen=True)
class CallJointly:
    """Claim a request and another one of its workspace, and settle both in one transaction if both are answered."""

    claim: Claim
    other: int


@dataclass(frozen=True)
class Cut:
    """The reply does not arrive: fail, perhaps billed. A reply may be recovered later."""

    attempt: int


@dataclass(frozen=True)
class Recover:
    """Claim an attempt's request again, and settle the earlier attempt's reply in place of a call."""

    attempt: int


@dataclass(frozen=True)
class Renew:
    attempt: int


@dataclass(frozen=True)
class SetCap:
    """Set, lower, raise or remove a cap. `bounds`: in multiples of the smallest upper bound."""

    workspace: int
    period: Period
    bounds: int | None


@dataclass(frozen=True)
class Wait:
    """Time passes for all."""

    seconds: int


@dataclass(frozen=True)
class Sweep:
    pass


@dataclass(frozen=True)
class Purge:
    pass


@dataclass(frozen=True)
class Refill:
    day: int


@dataclass(frozen=True)
class Grant:
    user: int
    key: int


@dataclass(frozen=True)
class Reconcile:
    """Confirm uncertain costs by the provider's list."""

    workspace: int


Operation = (
    Claim
    | End
    | Call
    | CallJointly
    | Cut
    | Recover
    | Renew
    | SetCap
    | Wait
    | Sweep
    | Purge
    | Refill
    | Grant
    | Reconcile
)


@dataclass(frozen=True)
class Schedule:
    """`in_turns`: one round trip at a time, in the order of the turns, which can be repeated; else all at once."""

    actors: tuple[tuple[Operation, ...], ...]
    turns: tuple[Turn, ...] = field(default=(), repr=False)
    beginning: datetime = BEGINNINGS[0]
    in_turns: bool = True

    def __str__(self) -> str:
        """The schedule as text that can be compared. Turns at the end that are the default are left out."""
        last = max((place for place, turn in enumerate(self.turns) if turn != Turn()), default=-1)
        lines = [f"from {self.beginning}, {'in turns' if self.in_turns else 'all at once'}"]
        lines += [f"  actor {number}: {operation}" for number, work in enumerate(self.actors) for operation in work]
        lines += [
            f"  turn {place}: {turn}"
            for place, turn in enumerate(self.turns[: last + 1])
            if turn.fault is not Fault.NONE
        ]
        return "\n".join([*lines, f"  choices: {[turn.choice for turn in self.turns[: last + 1]]}"])


WORKSPACE = st.sampled_from((0, 0, 0, 1))
# Mostly the newest ones.
ATTEMPT = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 5))
CLAIM = st.builds(
    Claim,
    workspace=WORKSPACE,
    request=st.sampled_from((0, 0, 1, 1, 2, 3)),
    outcome=st.sampled_from((*Outcome, *ANSWERED, Outcome.CHEAP)),
    bounds=st.integers(1, 2),
    provider=st.integers(0, 1),
    supersedes=st.sampled_from((None, None, 0, 0, 1, 2)),
)
TRIPS_BREAKER = st.sampled_from((False, False, False, True))
# Each operation, and how often it is drawn, compared with the others.
OPERATIONS: tuple[tuple[st.SearchStrategy[Operation], int], ...] = (
    (CLAIM, 6),
    (st.builds(End, attempt=ATTEMPT, trips_breaker=TRIPS_BREAKER), 6),
    (st.builds(Call, claim=CLAIM, trips_breaker=TRIPS_BREAKER), 6),
    (st.builds(CallJointly, claim=CLAIM, other=st.integers(0, 3)), 3),
    (st.builds(Cut, attempt=ATTEMPT), 1),
    (st.builds(Recover, attempt=ATTEMPT), 1),
    (st.builds(Renew, attempt=ATTEMPT), 1),
    (
        st.builds(
            SetCap,
            workspace=WORKSPACE,
            period=st.sampled_from(Period),
            bounds=st.sampled_from((1, 2, 3, 4, 6, None)),
        ),
        2,
    ),
    (
        st.builds(Wait, seconds=st.sampled_from(PERIODS)),
        2,
    ),
    (st.builds(Sweep), 1),
    (st.builds(Purge), 1),
    (st.builds(Refill, day=st.integers(0, 1)), 1),
    (st.builds(Grant, user=st.integers(0, 1), key=st.integers(0, 1)), 1),
    (st.builds(Reconcile, workspace=WORKSPACE), 1),
)
TURN = st.builds(
    Turn,
    choice=st.integers(0, ACTORS - 1),
    fault=st.sampled_from((*[Fault.NONE] * 30, *Fault)),
    dies=st.booleans(),
)


def schedules(*, in_turns: bool = True) -> st.SearchStrategy[Schedule]:
    """Random schedules. `in_turns`: see `Schedule`."""
    drawn = [kind for kind, often in OPERATIONS for _ in range(often)]
    operation = st.sampled_from(drawn).flatmap(lambda kind: kind)
    work = st.lists(operation, min_size=3, max_size=9).map(tuple)
    return st.builds(
        Schedule,
        actors=st.tuples(*[work] * ACTORS),
        turns=st.lists(TURN, min_size=40, max_size=80).map(tuple),
        beginning=st.sampled_from(BEGINNINGS),
        in_turns=st.just(in_turns),
    )
