"""Changed code must still replay the histories of running workflows.

The histories and fingerprints are committed. After a deliberate change of a workflow (with `workflow.patched` where
runs may be open), record them again: PARLEY_RECORD=1 python -m pytest tests/replay
"""

import json
import os
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from parley import Client
from parley.settings import DEFAULT_POLICY, Settings
from tests.parts import SimulatorAdmin
from tests.replay.generate import POLICY
from tests.replay.scenarios import FINGERPRINTS, HISTORIES, SCENARIOS, SHARING, Scenario, committed, fingerprint
from worker import RUNNER, WORKFLOW_CLASSES

RECORD = bool(os.environ.get("PARLEY_RECORD"))


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    policy = tmp_path / "policy.toml"
    policy.write_text(f"{DEFAULT_POLICY.read_text()}\n{POLICY}")
    seconds = 1.0 if request.node.callspec.params["scenario"] in SHARING else 0.0
    return settings.model_copy(update={"policy_file": policy, "collect_seconds": seconds})


def replayer() -> Replayer:
    return Replayer(workflows=list(WORKFLOW_CLASSES), workflow_runner=RUNNER, data_converter=pydantic_data_converter)


def load(path: Path) -> WorkflowHistory:
    return parse(path.read_text())


def parse(text: str) -> WorkflowHistory:
    committed = json.loads(text)
    return WorkflowHistory.from_json(committed["workflowId"], {"events": committed["events"]})


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_workflow_has_the_committed_order_of_commands(
    scenario: Scenario, client: Client, simulator: SimulatorAdmin
) -> None:
    job_id = await scenario(client, simulator)
    history = await client.temporal.get_workflow_handle(job_id).fetch_history()
    path = FINGERPRINTS / f"{scenario.__name__}.txt"
    if RECORD:
        path.parent.mkdir(exist_ok=True)
        HISTORIES.mkdir(exist_ok=True)
        path.write_text(fingerprint(history))
        (HISTORIES / f"{scenario.__name__}.json").write_text(committed(history))
    assert fingerprint(history) == path.read_text()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_committed_history_replays(scenario: Scenario) -> None:
    await replayer().replay_workflow(load(HISTORIES / f"{scenario.__name__}.json"))


async def test_a_changed_order_fails_the_replay() -> None:
    """The replay must fail for a history with another activity."""
    path = HISTORIES / "cost_optimized.json"
    changed = path.read_text().replace("session_analysis.coach", "session_analysis.measure_voice")
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(parse(changed))


def test_histories_stay_small() -> None:
    """Ids and counts only: no event carries more than two kilobytes of payload."""
    for path in HISTORIES.glob("*.json"):
        for event in json.loads(path.read_text())["events"]:
            assert len(json.dumps(event)) < 6000, (path.name, event["eventType"])


def test_histories_name_no_machine() -> None:
    for path in HISTORIES.glob("*.json"):
        text = path.read_text()
        assert "site-packages" not in text
        assert ".py" not in text
