"""What is said of a run before it starts."""

from decimal import Decimal

import pytest

from parley.domain.auto_analyze.contract import AutoAnalyzeInput, Phase
from parley.domain.auto_analyze.estimate import (
    IN_BATCHES,
    PhaseEstimate,
    RunEstimate,
    Speed,
    estimate,
    idle_streams,
)
from parley.domain.auto_analyze.processing import Processing
from parley.domain.auto_analyze.sampling import SessionFacts
from parley.domain.chat import Containment
from parley.domain.pricing import BATCH, ConfiguredRates, rates_for
from parley.domain.requests import Provider


@pytest.mark.parametrize(("streams", "limit"), [(8, 8), (1, 1), (8, 1000)])
def test_nothing_is_said_where_replies_take_longer_than_a_stream_waits(streams: int, limit: float):
    assert idle_streams(streams, limit) == ""


def test_streams_beyond_the_limit_are_idle():
    assert idle_streams(32, 8) == (
        "with 8 requests a second, some of 32 streams are idle while replies take less than 4 s"
    )
    assert "less than 6 s" in idle_streams(3, 0.5)


def test_a_run_in_batches_has_half_the_price_and_no_minutes_in_its_streams():
    configured = ConfiguredRates(elevenlabs_usd_per_hour=Decimal(0), elevenlabs_usd_per_thousand_characters=Decimal(0))
    usual, in_batches = (rates_for(Provider.OPENAI, "gpt-4o-mini", configured, 0, kind) for kind in ("", BATCH))
    facts = [SessionFacts(at, f"s-{at}", 50, Containment.AGENT, None) for at in range(400)]

    def phases(processing: Processing) -> tuple[RunEstimate, dict[Phase, PhaseEstimate]]:
        given = AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d", processing=processing)
        found = estimate(facts, given, Provider.OPENAI, "gpt-4o-mini", usual, Speed(8, 0.01), in_batches)
        return found, {one.phase: one for one in found.phases}

    (whole, realtime), (halved, batched) = phases("realtime"), phases("batch")
    assert batched[Phase.PARALLEL].estimated_usd == realtime[Phase.PARALLEL].estimated_usd / 2
    assert batched[Phase.PARALLEL].minutes is None
    for phase in (Phase.DISCOVERY, Phase.CONFLICTS):
        assert batched[phase] == realtime[phase]
    assert whole.warnings == ()
    assert halved.warnings == (IN_BATCHES,)
    assert (whole.minutes is None, halved.minutes) == (False, None)
