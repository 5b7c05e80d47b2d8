"""A key is sent to its provider only: it is in no row, no error and no log."""

import logging

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.boundary import boundary
from parley.domain.errors import AuthenticationFailed
from parley.settings import Settings
from parley.storage.tables import Attempt, UsageLog
from tests.activities.asking import ANTHROPIC, ELEVENLABS, OPENAI, Ask, make
from tests.activities.conftest import Opener
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import LedgerFixture

KEY = "sk-a-very-distinctive-key-4711"
PATHS = {"anthropic": "anthropic", "openai": "openai/v1", "elevenlabs": "elevenlabs"}
ALL = (ANTHROPIC, OPENAI, ELEVENLABS)


@pytest.fixture
def keyed(settings: Settings, simulator: SimulatorAdmin) -> Settings:
    """Every provider with its own key, at the simulator's address."""
    access = {f"{name}_base_url": f"{simulator.url}/{path}" for name, path in PATHS.items()}
    keys = {f"{name}_api_key": SecretStr(KEY) for name in PATHS}
    return settings.model_copy(update={**access, **keys, "simulator_url": None})


async def everything_stored(books: LedgerFixture) -> str:
    async with books.database.transaction() as tx:
        tables = (await tx.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).scalars().all()
        dumps = [(await tx.execute(text(f"SELECT x::text FROM {table} x"))).scalars().all() for table in tables]
    return "\n".join(line for dump in dumps for line in dump)


def chain(error: BaseException) -> str:
    """The text of an error and of all its causes."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts += [str(cause), repr(cause)]
        cause = cause.__cause__ or cause.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("ask", ALL, ids=lambda ask: ask.provider.value)
@pytest.mark.parametrize("fault", [None, "auth", "bad_request", "html"])
async def test_a_key_is_in_no_row_error_or_log(
    open_calls: Opener,
    keyed: Settings,
    books: LedgerFixture,
    simulator: SimulatorAdmin,
    caplog: pytest.LogCaptureFixture,
    ask: Ask,
    fault: str | None,
):
    caplog.set_level(logging.DEBUG)
    paid_calls = open_calls(books.database, keyed)
    said = ""
    if fault:
        await simulator.fault(fault)
        with pytest.raises(Exception, match=ask.provider) as raised:
            await make(paid_calls, ask)
        said = chain(raised.value)
    else:
        assert not (await make(paid_calls, ask)).simulated, "a provider with a key is the real one"
    (attempt,) = await books.all(Attempt)
    assert (attempt.state, attempt.simulated) == ("failed" if fault else "settled", False)
    assert not any(row.simulated for row in await books.all(UsageLog))
    stored = await everything_stored(books)
    assert str(attempt.id) in stored, "the search does look at the rows"
    for place in (stored, said, caplog.text, repr(keyed)):
        assert KEY not in place


async def test_a_refused_key_is_one_short_error_in_temporal(
    open_calls: Opener, keyed: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.fault("auth")
    paid_calls = open_calls(books.database, keyed)

    @boundary
    async def work() -> None:
        await make(paid_calls)

    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(work)
    error = raised.value
    assert (error.type, error.non_retryable, error.__cause__) == (AuthenticationFailed.__name__, True, None)
    assert KEY not in str(error)
