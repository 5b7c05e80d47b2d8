"""Overviews of labelling runs, made without a server."""

import random  # noqa: TID251 - a test
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from parley.domain.auto_analyze.consistency import Consistency
from parley.domain.auto_analyze.contract import LabelCount, LabelKind, Statistics
from parley.domain.auto_analyze.overview import Flow, NewLabels, PhaseCost, QuotedSession, RunOverview
from parley.domain.chat import Containment
from parley.domain.costs import Costs

TOPICS = [
    "billing dispute", "late delivery", "password reset", "cancel subscription", "change address", "refund status",
    "broken device", "opening hours", "plan upgrade", "network outage", "roaming charges", "porting a number",
    "invoice copy", "payment method", "data export", "complaint about an agent", "store pick-up", "warranty claim",
]  # fmt: skip
LOCATIONS = ["identity check", "plan selection", "payment form", "waiting for an agent"]


def sessions_of(count: int, *, seed: int = 3, topics: Sequence[str] = TOPICS) -> list[QuotedSession]:
    """Sessions whose topics are unevenly frequent."""
    draw = random.Random(seed)
    weights = [1 / (place + 1) for place in range(len(topics))]
    return [_session(at, draw.choices(topics, weights)[0], draw) for at in range(count)]


def _session(at: int, topic: str, draw: random.Random) -> QuotedSession:
    ended = draw.choices(list(Containment), [35, 45, 20])[0]
    return QuotedSession(
        session_id=f"chat-{at:06}",
        user_id=f"u{at % 997}",
        containment=ended,
        intent=topic,
        transfer_reason="needs approval" if ended is Containment.AGENT else None,
        drop_off_location=draw.choice(LOCATIONS) if ended is Containment.DROP_OFF else None,
        summary=f"The user asked about {topic}.",
        quote=f"Hello, I write because of a {topic}, number {at}.",
        fallback=at % 50 == 49,
        by_rule=False,
    )


def overview_of(sessions: Sequence[QuotedSession], **changes: Any) -> RunOverview:
    """What a run on these sessions has found."""
    labels: list[LabelCount] = []
    for kind in LabelKind:
        counts = Counter(label for one in sessions if (label := getattr(one, kind.value)))
        labels += [LabelCount(kind=kind, label=label, sessions=count) for label, count in counts.most_common()]
    ends = Counter((one.intent or "", one.containment, one.drop_off_location) for one in sessions)
    flows = [
        Flow(intent=a, containment=b, drop_off_location=c, sessions=count) for (a, b, c), count in ends.most_common()
    ]
    given: dict[str, Any] = {
        "id": "auto-analyze/default/0123456789abcdef",
        "job_key": "11111111-2222-3333-4444-555555555555",
        "name": "support.jsonl",
        "status": "completed",
        "created_at": datetime(2026, 3, 2, 9, 0, tzinfo=UTC),
        "ended_at": datetime(2026, 3, 2, 9, 12, 30, tzinfo=UTC),
        "sessions": len(sessions),
        "labelled": len(sessions),
        "fallbacks": sum(one.fallback for one in sessions),
        "labels": tuple(labels),
        "statistics": Statistics(sessions=len(sessions), unique_labels={LabelKind.INTENT: 31}, conflicts_resolved=13),
        "flows": tuple(flows),
        "new_labels": tuple(NewLabels(round=at, labels=max(14 - 3 * at, 1)) for at in range(12)),
        "phases": (
            _phase("discovery", 20, 50_000, "0.12"),
            _phase("parallel streams", 300, 910_000, "1.91", "0.02"),
            _phase("conflict resolution", 3, 9000, "0.03"),
        ),
        "consistency": Consistency(copies=40, agreement_before=0.75, agreement=0.96, singletons=9, entropy=4.2),
        "costs": Costs(lines=()),
    }
    return RunOverview(**{**given, **changes})


def _phase(phase: str, attempts: int, tokens: int, confirmed: str, uncertain: str = "0") -> PhaseCost:
    costs = {"confirmed_usd": Decimal(confirmed), "uncertain_usd": Decimal(uncertain)}
    return PhaseCost(phase=phase, attempts=attempts, tokens=tokens, **costs)


async def each(sessions: Sequence[QuotedSession]) -> AsyncIterator[QuotedSession]:
    """The sessions one by one."""
    for one in sessions:
        yield one
