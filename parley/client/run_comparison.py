"""What differs between two labelling runs on one dataset, read from the database."""

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.auto_analyze.comparison import DifferingSession, RunComparison, RunSide, compared
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.evidence import opening
from parley.domain.chat import ChatSession
from parley.storage import earlier_runs, usage
from parley.storage.tables import AutoRun

EXAMPLES = 5


async def comparison_of(
    tx: AsyncSession, first: AutoRun, second: AutoRun, *, examples: int = EXAMPLES
) -> RunComparison:
    """The comparison of two runs on one dataset. `examples`: the most sessions whose intents do not match."""
    workspace_id, keys = first.workspace_id, (first.job_key, second.job_key)
    cells = await earlier_runs.pairs_of_labels(tx, workspace_id, *keys)
    found = compared(cells, await _side(tx, first), await _side(tx, second))
    shown = [await _example(tx, workspace_id, keys, (pair.first, pair.second)) for pair in found.moved[:examples]]
    return found.model_copy(update={"examples": tuple(one for one in shown if one)})


async def _side(tx: AsyncSession, row: AutoRun) -> RunSide:
    spent = await usage.costs(tx, row.workspace_id, job_key=row.job_key)
    intents = await earlier_runs.sessions_of_labels(tx, row.workspace_id, row.job_key, LabelKind.INTENT)
    return RunSide(
        id=row.workflow_id,
        job_key=row.job_key,
        models=tuple(sorted({line.model for line in spent.lines})),
        cost_usd=spent.confirmed_usd + spent.uncertain_usd,
        tokens=sum(line.tokens_total for line in spent.lines),
        intents=len(intents),
        instructions=row.settings.get("instructions", ""),
    )


async def _example(
    tx: AsyncSession, workspace_id: str, keys: tuple[str, str], labels: tuple[str, str]
) -> DifferingSession | None:
    chat = await earlier_runs.session_with(tx, workspace_id, *keys, labels)
    if chat is None:
        return None
    session = ChatSession.model_validate(chat.payload)
    return DifferingSession(
        session_id=session.session_id, first=labels[0], second=labels[1], said=opening(session.messages)
    )
