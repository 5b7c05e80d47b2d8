"""What is said of a run before it starts."""

from decimal import Decimal
from typing import Any

import pytest

from parley.domain.auto_analyze.contract import AutoAnalyzeInput, LabelKind, Phase
from parley.domain.auto_analyze.estimate import (
    IN_BATCHES,
    PhaseEstimate,
    RunEstimate,
    Speed,
    Workload,
    estimate,
    even_workload,
    idle_streams,
    workload_of,
)
from parley.domain.auto_analyze.processing import Processing
from parley.domain.pricing import BATCH, ConfiguredRates, Rates, rates_for
from parley.domain.requests import Provider
from tests.domain.auto_analyze.chats import alike, mixed_facts

RATES = Rates(source="test", input=Decimal("0.15"), output=Decimal("0.60"))


@pytest.mark.parametrize(("streams", "limit"), [(8, 8), (1, 1), (8, 1000)])
def test_nothing_is_said_where_replies_take_longer_than_a_stream_waits(streams: int, limit: float):
    assert idle_streams(streams, limit) == ""


def test_streams_beyond_the_limit_are_idle():
    assert idle_streams(32, 8) == (
        "with 8 requests a second, some of 32 streams are idle while replies take less than 4 s"
    )
    assert "less than 6 s" in idle_streams(3, 0.5)


def planned(work: Workload, **terms: Any) -> RunEstimate:
    given = AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d", **terms)
    return estimate(work, given, Provider.OPENAI, "gpt-4o-mini", RATES, Speed(8, None))


def phases(found: RunEstimate) -> dict[Phase, int]:
    return {one.phase: one.requests for one in found.phases}


def test_every_phase_is_estimated():
    work = workload_of(alike(1000), AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d"))
    found = planned(work)
    assert [*phases(found)] == [Phase.DISCOVERY, Phase.PARALLEL, Phase.PROBES, Phase.CONFLICTS, Phase.REASSIGNMENT]
    assert phases(found)[Phase.PROBES] == 1
    assert phases(found)[Phase.REASSIGNMENT] == 46


def test_instructions_are_sent_with_each_request():
    work = workload_of(alike(1000), AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d"))
    plain, instructed = planned(work), planned(work, instructions="b" * 300)
    assert phases(plain) == phases(instructed)
    for one, other in zip(plain.phases, instructed.phases, strict=True):
        assert other.input_tokens == one.input_tokens + 100 * one.requests


def test_what_is_turned_off_costs_nothing():
    work = even_workload(1000, 40_000, 0, AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d"))
    found = planned(work, reassign=False, probes=0)
    assert [*phases(found)] == [Phase.DISCOVERY, Phase.PARALLEL, Phase.CONFLICTS]


def test_closed_labels_need_neither_discovery_nor_merging():
    terms: dict[str, Any] = {"taxonomy": "labels", "closed": tuple(LabelKind), "probes": 0}
    given = AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d", **terms)
    found = planned(workload_of(alike(1000), given, 30), **terms)
    assert [*phases(found)] == [Phase.PARALLEL]


def test_totals_give_nearly_what_the_sessions_give():
    given = AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d")
    facts = mixed_facts(2000)
    exact = planned(workload_of(facts, given))
    even = planned(even_workload(2000, sum(one.tokens for one in facts), 0, given))
    assert float(even.estimated_usd) == pytest.approx(float(exact.estimated_usd), rel=0.1)


def test_copies_are_not_sent():
    given = AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d")
    work = even_workload(100, 4000, 60, given)
    assert (work.sent, work.copies, planned(work).sessions) == (40, 60, 100)
    assert even_workload(0, 0, 0, given).sent == 0


def test_a_run_in_batches_has_half_the_price_and_no_minutes_in_its_streams_and_second_look():
    configured = ConfiguredRates(elevenlabs_usd_per_hour=Decimal(0), elevenlabs_usd_per_thousand_characters=Decimal(0))
    usual, in_batches = (rates_for(Provider.OPENAI, "gpt-4o-mini", configured, 0, kind) for kind in ("", BATCH))

    def halves(processing: Processing) -> tuple[RunEstimate, dict[Phase, PhaseEstimate]]:
        given = AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d", processing=processing)
        found = estimate(
            workload_of(alike(400), given), given, Provider.OPENAI, "gpt-4o-mini", usual, Speed(8, 0.01), in_batches
        )
        return found, {one.phase: one for one in found.phases}

    (whole, realtime), (halved, batched) = halves("realtime"), halves("batch")
    for phase in (Phase.PARALLEL, Phase.REASSIGNMENT):
        assert batched[phase].estimated_usd == realtime[phase].estimated_usd / 2
        assert (batched[phase].minutes, batched[phase].rounds) == (None, 1)
    for phase in (Phase.DISCOVERY, Phase.CONFLICTS):
        assert batched[phase] == realtime[phase]
    assert whole.warnings == ()
    assert halved.warnings == (IN_BATCHES,)
    assert (whole.minutes is None, halved.minutes) == (False, None)
