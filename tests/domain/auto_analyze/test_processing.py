"""Which runs may ask in batches, and what their requests contain."""

import pytest
from pydantic import ValidationError

from parley.domain.auto_analyze.contract import AutoAnalyzeInput, Job, Phase
from parley.domain.auto_analyze.processing import BatchFigures, OpenSubmission, Submissions, with_batch_api
from parley.domain.auto_analyze.steps import ClassifyStep
from parley.domain.auto_analyze.submissions import Submit
from parley.domain.errors import InvalidInput
from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.storage.tables import utc_now


def candidate(provider: Provider) -> Candidate:
    return Candidate(provider=provider, model="model", simulated=True, reason="")


LOCAL, OPENAI, ANTHROPIC = map(candidate, (Provider.LOCAL, Provider.OPENAI, Provider.ANTHROPIC))


def given(**terms: object) -> AutoAnalyzeInput:
    return AutoAnalyzeInput.model_validate({"workspace_id": "acme", "user_id": "ann", "dataset_id": "d", **terms})


def test_candidates_with_a_batch_api_come_first_in_their_order():
    assert with_batch_api((LOCAL, ANTHROPIC, OPENAI)) == (ANTHROPIC, OPENAI, LOCAL)


def test_a_run_needs_one_of_them():
    with pytest.raises(InvalidInput, match="local has no batch API: use --processing realtime"):
        with_batch_api((LOCAL,))
    with pytest.raises(ValidationError, match="local has no batch API"):
        given(processing="batch", provider="local")
    assert given(processing="realtime", provider="local").provider is Provider.LOCAL


@pytest.mark.parametrize("max_staleness", [0, 2, None])
def test_requests_of_a_batch_contain_the_labels_of_the_discovery(max_staleness: int | None):
    def horizon(phase: Phase, number: int, processing: str = "batch") -> int | None:
        job = Job(input=given(processing=processing, max_staleness=max_staleness), job_key="job", workflow_id="w")
        step = ClassifyStep(
            job=job, candidate=OPENAI, phase=phase, round=number, stream=1, ordinals=(7,), sized_for="model"
        )
        return step.horizon

    assert [horizon(Phase.PARALLEL, number) for number in (1, 2, 9)] == [0, 0, 0]
    assert horizon(Phase.DISCOVERY, -1) == -2
    assert horizon(Phase.PARALLEL, 9, "realtime") == (None if max_staleness is None else 8 - max_staleness)


@pytest.mark.parametrize(
    ("max_staleness", "horizons"),
    [(0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (1, [0, 1, 1, 2, 3, 4, 5, 6, 7, 8]), (4, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5])],
)
def test_a_request_has_the_labels_of_at_least_half_of_the_rounds_before_it(max_staleness: int, horizons: list[int]):
    job = Job(input=given(max_staleness=max_staleness), job_key="job", workflow_id="w")
    steps = [
        ClassifyStep(
            job=job, candidate=OPENAI, phase=Phase.PARALLEL, round=number, stream=1, ordinals=(7,), sized_for="model"
        )
        for number in range(1, 11)
    ]
    assert [step.horizon for step in steps] == horizons


def test_a_submission_has_one_id_for_each_job_and_number():
    def id_of(number: int, **terms: object) -> object:
        job = Job(input=given(**terms), job_key="job", workflow_id="w")
        return Submit(job=job, candidate=OPENAI, number=number, first=0).submission_id

    assert id_of(1) == id_of(1)
    assert len({id_of(1), id_of(2), id_of(1, workspace_id="other")}) == 3


def test_the_figures_count_what_open_batches_have_done():
    assert Submissions().figures is None
    opened = tuple(OpenSubmission(number=number, sent_at=utc_now(), processed=number) for number in (2, 3))
    found = Submissions(number=3, open=opened, ended=BatchFigures(submitted=20, answered=4)).figures
    assert found == BatchFigures(submitted=20, answered=4, processed=5)
