"""Merges of labels are stored once, also if a request is repeated."""

from activities.auto_analyze.evidence import store_merges
from parley.domain.auto_analyze.contract import AutoAnalyzeInput, Job, LabelKind
from parley.domain.auto_analyze.steps import ResolveStep
from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.storage import label_evidence
from parley.storage.database import Database
from tests.storage.test_auto_analyze import INTENT, Run, labels


async def test_a_repeated_request_counts_the_merges_that_it_has_stored(database: Database) -> None:
    run = await (await Run(database).import_(3)).begin([0, 1, 2])
    await run.store({at: labels(name) for at, name in enumerate(("refund", "money back", "bill"))})
    workspace, job_key = run.scope
    given = AutoAnalyzeInput(workspace_id=workspace, user_id="u", dataset_id="d")
    step = ResolveStep(
        job=Job(input=given, job_key=job_key, workflow_id="w"),
        candidate=Candidate(provider=Provider.OPENAI, model="gpt-4o-mini", simulated=True, reason=""),
        kind=LabelKind.INTENT,
        level=0,
        chunk=0,
        sized_for="gpt-4o-mini",
    )
    for _ in range(2):
        assert await store_merges(database, step, {"money back": "refund"}) == 1
    assert await store_merges(database, step, {"bill": "refund"}) == 0, "another request has merged the refund"
    assert await run.call(label_evidence.merged_on, INTENT, 0) == {"money back": "refund"}
