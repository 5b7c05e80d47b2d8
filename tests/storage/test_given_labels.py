"""The labels that a run starts from, and the second labels of its probes."""

import pytest

from parley.domain.auto_analyze.contract import GIVEN_ROUND, LabelKind
from parley.domain.auto_analyze.probing import Pair
from parley.domain.auto_analyze.taxonomy import GivenLabel, Taxonomy
from parley.domain.errors import NotFound
from parley.storage import auto_analyze as runs
from parley.storage import label_evidence, probes, run_overview, taxonomies
from parley.storage.database import Database
from tests.storage.test_auto_analyze import ACME, INTENT, Run, labels

PARCEL = GivenLabel(label="parcel", definition="A parcel is late.", examples=("where is it", "still nothing"))


async def run_of(database: Database) -> Run:
    run = await (await Run(database).import_(6)).begin([*range(6)])
    await run.call(taxonomies.give, [PARCEL])
    await run.call(taxonomies.give, [PARCEL])
    await run.store({0: labels("refund"), 1: labels("parcel")}, 1)
    return run


async def test_labels_are_stored_once(database: Database):
    given = Taxonomy(labels=(PARCEL,))
    async with database.transaction() as tx:
        await taxonomies.store(tx, ACME, given)
        await taxonomies.store(tx, ACME, given)
        assert await taxonomies.load(tx, ACME, given.id) == [PARCEL]
        with pytest.raises(NotFound, match="no labels 'none'"):
            await taxonomies.load(tx, ACME, "none")


async def test_given_labels_are_known_to_the_first_request_and_never_found(database: Database):
    run = await run_of(database)
    assert (await run.call(runs.known_labels, up_to=GIVEN_ROUND))[INTENT] == ["parcel"]
    assert (await run.call(runs.known_labels))[INTENT] == ["parcel", "refund"]
    assert await run.call(runs.labels_found, after=0, has_ended=True) == [(INTENT, "refund")]
    assert [one.labels for one in await run.call(run_overview.new_labels)] == [1]
    assert (await run.call(taxonomies.given))[INTENT] == ["parcel"]


async def test_a_given_label_has_the_evidence_that_it_was_given_with(database: Database):
    run = await run_of(database)
    shown = await run.call(label_evidence.first_sessions, LabelKind.INTENT, up_to=GIVEN_ROUND)
    assert (shown[0].definition, shown[0].examples) == (PARCEL.definition, PARCEL.examples[:1])
    found = {one.label: one for one in await run.call(label_evidence.evidence, INTENT)}
    assert (found["parcel"].given, found["parcel"].examples) == (True, PARCEL.examples)
    assert not found["refund"].given


async def test_only_labels_that_sessions_have_are_found(database: Database):
    run = await run_of(database)
    await run.call(taxonomies.give, [GivenLabel(label="fax")])
    assert (await run.call(runs.found_labels))[INTENT] == {"parcel", "refund"}


async def test_a_probe_has_labels_of_its_own(database: Database):
    run = await run_of(database)
    await run.call(probes.store, {0: labels("refunds"), 1: labels("parcel")}, {0: "money back"}, 3)
    assert (await run.call(runs.known_labels))[INTENT] == ["parcel", "refund"]
    assert await run.call(runs.labels_found, after=0, has_ended=True) == [(INTENT, "refund")]
    await run.merge(0, {"refunds": "refund"})
    await run.apply()
    assert await run.call(probes.pairs) == [
        Pair("refund", "refunds", "refund", "refund"),
        Pair("parcel", "parcel", "parcel", "parcel"),
    ]
    assert [one.intent for one in await run.exported()][:2] == ["refund", "parcel"]
    assert (await run.call(runs.found_labels))[INTENT] == {"parcel", "refund"}


async def test_long_and_unlabelled_sessions_are_left_out(database: Database):
    run = await run_of(database)
    assert await run.call(probes.rounds_of, [1, 0, 5], 1000) == {1: 1, 0: 1}
    assert await run.call(probes.rounds_of, [1, 0], 100) == {0: 1}
