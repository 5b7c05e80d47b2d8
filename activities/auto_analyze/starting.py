"""What a run starts from: given labels, an earlier run, or a run that it repeats with another model or prompt."""

from collections.abc import Sequence, Set
from typing import NamedTuple

from parley.domain.auto_analyze.contract import AutoAnalyzeInput, Statistics
from parley.domain.auto_analyze.taxonomy import GivenLabel, with_other
from parley.storage import auto_analyze as runs
from parley.storage import earlier_runs, taxonomies
from parley.storage.database import Database


class StartingPoint(NamedTuple):
    """What a run starts from.

    `labels`: those that it is given. `labelled`: positions of sessions that an earlier run has labelled. `sample`: the
    sessions of the discovery of the run that this one repeats; None for a run that repeats none.
    """

    labels: Sequence[GivenLabel] = ()
    labelled: Set[int] = frozenset()
    sample: int | None = None


async def starting_point(database: Database, given: AutoAnalyzeInput) -> StartingPoint:
    """What a run starts from.

    Raises:
        NotFound: the workspace has no such labels or run.
    """
    workspace_id = given.workspace_id
    labels: list[GivenLabel] = []
    labelled: set[int] = set()
    sample: int | None = None
    async with database.transaction(bulk=True) as tx:
        if given.taxonomy is not None:
            labels = await taxonomies.load(tx, workspace_id, given.taxonomy)
        elif given.since is not None:
            labels = await earlier_runs.final_labels(tx, workspace_id, given.since)
            keys = await earlier_runs.lineage(tx, workspace_id, given.since)
            labelled = await earlier_runs.labelled_positions(tx, workspace_id, given.dataset_id, keys)
        if given.fork_of is not None:
            original = await runs.find(tx, workspace_id, given.fork_of)
            ended = Statistics.model_validate(original.statistics) if original.statistics else None
            sample = ended.discovery_sessions if ended else None
    return StartingPoint(with_other(labels, given.closed), labelled, sample)
