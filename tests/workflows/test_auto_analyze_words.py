"""Labelling runs whose words are hard: many labels, many languages, labels that differ in how they are written."""

from pathlib import Path

import pytest

from parley import Client, GivenLabel, LabelKind, Taxonomy
from parley.domain.auto_analyze.merging import spelling
from parley.domain.auto_analyze.taxonomy import MOST_LABELS
from tests.workflows.test_auto_analyze import chat, chats, sessions_of, start
from tests.workflows.test_auto_analyze_limits import statistics_of

SAID = (
    "Meine Rechnung ist falsch, bitte prüfen Sie sie",
    "¿Dónde está mi paquete? Lo pedí el 3 de enero",
    "请问我的账单为什么这么高",
    "パスワードを忘れてしまいました",
    "لم يصل طلبي حتى الآن",
    "ขอคืนเงินสำหรับคำสั่งซื้อ",
    "Где мой заказ? Он должен был прийти вчера",
    "İade talebim neden reddedildi",
    "मेरा इंटरनेट काम नहीं कर रहा है",
    "🙂🙂 merci, mais ma carte est bloquée",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


@pytest.mark.usefixtures("worker")
async def test_sessions_of_several_languages_are_labelled_with_their_own_words(client: Client, path: Path) -> None:
    said = [SAID[number % len(SAID)] for number in range(40)]
    kinds = ("selfService", "agent", "dropOff", "selfService")
    sessions = [chat(number, text, kinds[number // len(SAID)]) for number, text in enumerate(said)]
    statistics = statistics_of(await (job := await start(client, path, sessions)).result())
    assert (statistics.labelled, statistics.fallbacks, statistics.unmerged_chunks) == (40, 0, 0)
    found = await sessions_of(client, job)
    for one, text in zip(found, said, strict=True):
        assert one.intent
        assert one.intent_quote is None or one.intent_quote in text
    quoted = [one async for one in job.quoted_sessions()]
    assert [one.session_id for one in quoted] == [one.session_id for one in found]
    assert await client.audit() == []


@pytest.mark.usefixtures("worker")
async def test_labels_that_are_only_written_differently_become_one(client: Client, path: Path) -> None:
    """The simulator names what it does not know by the word that the user wrote."""
    written = ("zebra", "zebras", "Zebra", "ZEBRAS", "walrus", "walruses")
    texts = [f"I have a question about my {word}, number {number}" for number, word in enumerate(written * 6)]
    job = await start(client, path, [chat(number, text) for number, text in enumerate(texts)], reassign=False)
    report = await job.result()
    statistics = statistics_of(report)
    assert (statistics.fallbacks, statistics.conflicts_resolved) == (0, statistics.conflicts_found)
    found = {one.original_intent or "" for one in await sessions_of(client, job)}
    left = {one.label for one in report.labels}
    assert len(found) > len({spelling(label) for label in found}) >= len(left)
    assert len({spelling(label) for label in left}) == len(left)
    merged = [one for label in (await job.labels.show(LabelKind.INTENT)).labels for one in label.merged]
    assert {one.label for one in merged} == found - left
    assert "spelling" in {one.merged_by for one in merged}


@pytest.mark.usefixtures("worker")
async def test_a_run_starts_from_five_thousand_labels(client: Client, path: Path) -> None:
    labels = tuple(GivenLabel(label=f"topic {number} of desk {number % 97}") for number in range(MOST_LABELS))
    job = await start(client, path, chats(40), labels=Taxonomy(labels=labels))
    statistics = statistics_of(await job.result())
    assert (statistics.labelled, statistics.fallbacks, statistics.given_labels) == (40, 0, MOST_LABELS)
    assert statistics.labels_left_out > 0
    # The number grows during a run: `labels_left_out` has the last one.
    assert any("has no room for all known labels" in warning for warning in statistics.warnings)
    assert await client.audit() == []
