"""What a provider counts cannot lose a reply: counts that are missing or cannot be true make its cost uncertain."""

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


def completion(usage: dict[str, Any] | None) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It went well."}}
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "llama",
        "choices": [choice],
        "usage": usage,
    }


@pytest.mark.parametrize(
    "usage",
    [
        POSSIBLE | {"prompt_tokens": 3 * 10**9},
        POSSIBLE | {"completion_tokens": 10**400},
        POSSIBLE | {"completion_tokens": -5},
        POSSIBLE | {"completion_tokens_details": {"reasoning_tokens": -5}},
        POSSIBLE | {"prompt_tokens": float("nan")},
        {},
        None,
    ],
)
async def test_a_reply_without_possible_counts_is_settled_at_an_uncertain_cost(
    open_calls: Opener, books: LedgerFixture, settings: Settings, usage: dict[str, Any] | None
):
    async with answering(completion(usage)) as server:
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
