"""What Prometheus reads from a worker: the metrics of the SDK and of Parley, with bounded labels."""

import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest

from activities.metrics import DISTINCT_NAMES, Metrics, serve_metrics
from parley.domain.errors import InvalidInput
from parley.domain.requests import Provider, Usage
from starter.embedded import Addresses
from tests.activities.scraping import free_address, scraped, values
from tests.faults.scene import scene
from tests.parts import until

USAGE = Usage(input_tokens=1000, cached_input_tokens=400, output_tokens=200)


async def test_an_attempt_is_counted_with_its_cost_tokens_and_seconds(address: str, metrics: Metrics):
    metrics.attempt_ended(
        Provider.ANTHROPIC, "model-1", "coaching", "settled", Decimal("0.001640"), USAGE, 0.3, confirmed=True
    )
    metrics.attempt_ended(
        Provider.ANTHROPIC, "model-1", "coaching", "failed", Decimal("0.01"), Usage(), 40.1, confirmed=False
    )
    text = await scraped(address)
    call = 'action="coaching",{}model="model-1",{}provider="anthropic"'
    assert values(text, "parley_attempts_total") == {
        call.format("", 'outcome="settled",'): 1,
        call.format("", 'outcome="failed",'): 1,
    }
    assert values(text, "parley_cost_micro_usd_total") == {
        call.format('confirmed="true",', ""): 1640,
        call.format('confirmed="false",', ""): 10000,
    }
    assert values(text, "parley_tokens_total") == {'direction="input"': 1000, 'direction="output"': 200}
    buckets = values(text, "parley_attempt_seconds_bucket")
    below = {float(re.sub(r'.*le="([^"]*)".*', r"\1", labels)): count for labels, count in buckets.items()}
    assert (below[0.25], below[0.5], below[40], below[60]) == (0, 1, 1, 2)


async def test_a_recovered_reply_has_no_duration(address: str, metrics: Metrics):
    metrics.attempt_ended(Provider.OPENAI, "gpt", "coaching", "recovered", Decimal("0.002"), USAGE, None)
    text = await scraped(address)
    assert values(text, "parley_attempts_total") == {
        'action="coaching",model="gpt",outcome="recovered",provider="openai"': 1
    }
    assert values(text, "parley_tokens_total")['direction="output"'] == 200
    assert values(text, "parley_attempt_seconds_count") == {}


async def test_fractions_of_a_millionth_of_a_dollar_add_up(address: str, metrics: Metrics):
    for _ in range(10):
        metrics.attempt_ended(Provider.OPENAI, "gpt", "chat", "settled", Decimal("0.0000124"), Usage(), 0.1)
        metrics.cost_above_bound(Provider.OPENAI, "gpt", Decimal("0.0000005"))
    text = await scraped(address)
    assert [*values(text, "parley_cost_micro_usd_total").values()] == [124]
    assert [*values(text, "parley_cost_above_bound_micro_usd_total").values()] == [5]


async def test_an_address_may_have_a_name():
    port = free_address().rpartition(":")[2]
    metrics, _ = serve_metrics(f"localhost:{port}")
    metrics.generation_ended("completed", "")
    assert values(await scraped(f"127.0.0.1:{port}"), "parley_generations_total")


async def test_generations_are_counted_by_outcome_and_cache(address: str, metrics: Metrics):
    for outcome, cached in (("completed", ""), ("completed", "exact"), ("completed", "exact"), ("refused", "")):
        metrics.generation_ended(outcome, cached)
    assert values(await scraped(address), "parley_generations_total") == {
        'cached="no",outcome="completed"': 1,
        'cached="exact",outcome="completed"': 2,
        'cached="no",outcome="refused"': 1,
    }


async def test_label_values_that_callers_choose_are_bounded(address: str, metrics: Metrics):
    for number in range(DISTINCT_NAMES + 50):
        metrics.attempt_ended(Provider.OPENAI, "gpt", f"action {number}", "settled", Decimal(0), Usage(), 0.1)
    found = values(await scraped(address), "parley_attempts_total")
    assert len(found) == DISTINCT_NAMES + 1
    assert sum(count for labels, count in found.items() if 'action="other"' in labels) == 50


def test_without_an_address_nothing_is_counted():
    metrics, runtime = serve_metrics(None)
    assert runtime is None
    metrics.attempt_ended(Provider.OPENAI, "gpt", "coaching", "settled", Decimal(1), USAGE, 0.1)
    metrics.generation_ended("completed", "")


def test_an_address_in_use_is_named_in_the_error(address: str, metrics: Metrics):
    with pytest.raises(InvalidInput, match=f"PARLEY_METRICS_ADDRESS.*{address}"):
        serve_metrics(address)


async def test_a_worker_exports_the_sdks_metrics_and_the_breakers(stack: Addresses, template: str, tmp_path: Path):
    at = free_address()
    async with scene(stack, template, tmp_path) as made:
        await made.query(
            "INSERT INTO breakers (provider, workspace_id, failures, failing, generation, open_until) "
            "VALUES ('anthropic', '', 3, '{}', 1, now() + interval '1 hour')"
        )
        await made.start_worker(roles=("local",), PARLEY_METRICS_ADDRESS=at)
        await until(shows(at, "parley_breaker_open"))
        text = await scraped(at)
    breakers = values(text, "parley_breaker_open")
    assert breakers['provider="anthropic"'] == 1
    assert breakers['provider="openai"'] == breakers['provider="local"'] == 0
    assert values(text, "temporal_num_pollers")


def shows(address: str, name: str) -> Callable[[], Awaitable[bool]]:
    async def shown() -> bool:
        return name in await scraped(address)

    return shown
