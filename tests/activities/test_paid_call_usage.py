"""What a provider counts cannot lose a reply: counts that cannot be true make its cost uncertain."""

from typing import Any

import pytest

from parley.domain.requests import Provider
from parley.settings import Settings
from parley.storage.tables import UsageLog
from tests.activities.asking import CHAT, Ask, make
from tests.activities.conftest import Opener
from tests.providers.vendors import answering
from tests.storage.ledger_fixture import NOTHING, PRICE, LedgerFixture

ASK = Ask(Provider.LOCAL, "llama", CHAT)
POSSIBLE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


def completion(**counts: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It went well."}}
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "llama",
        "choices": [choice],
        "usage": POSSIBLE | counts,
    }


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": 3 * 10**9},
        {"completion_tokens": 10**400},
        {"completion_tokens": -5},
        {"completion_tokens_details": {"reasoning_tokens": -5}},
        {"prompt_tokens": float("nan")},
    ],
    ids=str,
)
async def test_a_reply_with_an_impossible_count_is_settled_at_an_uncertain_cost(
    open_calls: Opener, books: LedgerFixture, settings: Settings, counts: dict[str, Any]
):
    async with answering(completion(**counts)) as server:
        priced = {"local_usd_per_million_input": 1, "local_usd_per_million_output": 2}
        given = Settings(**{**settings.model_dump(), **priced, "local_base_url": server.url})
        settled = await make(open_calls(books.database, given), ASK)
        assert len(server.requests) == 1
    assert settled.reply.kind == "chat"
    assert settled.reply.text == "It went well."
    (attempt,) = await books.attempts()
    assert (attempt.state, attempt.billed, attempt.cost_usd) == ("settled", "yes", None)
    assert await books.dollars() == await books.day() == (NOTHING, NOTHING, attempt.upper_bound_usd)
    (row,) = await books.all(UsageLog)
    assert (row.confirmed, row.tokens_total, row.cost_usd) == (False, 0, attempt.upper_bound_usd)
    assert await books.energy() == (PRICE, 0)
