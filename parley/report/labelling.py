"""Renders the report of a labelling run: one page that opens offline, with its sessions as data that a script shows.

The sessions are written as they come, so that memory does not grow with the run.
"""

import json
from collections.abc import AsyncIterator
from typing import TextIO

from markupsafe import Markup

from parley.domain.auto_analyze.consistency import AGREEMENT_AIM, CATCH_ALL_SHARE
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.overview import QuotedSession, RunOverview
from parley.report import flows
from parley.report.page import STATIC, environment, policy

# As many sessions are one block of data, which the browser reads when it needs it.
SESSIONS_IN_BLOCK = 1000
MOST_LISTED = 25
# What the template has where the sessions are written. Texts in the page cannot contain it: `<` is escaped in them.
SESSIONS = "<!-- sessions -->"
TITLES = {
    LabelKind.INTENT: "Intents",
    LabelKind.TRANSFER_REASON: "Transfer reasons",
    LabelKind.DROP_OFF_LOCATION: "Drop-off locations",
}
WIDE, NARROW = (1000, 420), (360, 560)


async def write_page(overview: RunOverview, sessions: AsyncIterator[QuotedSession], file: TextIO) -> int:
    """Write the page; returns the number of sessions in it.

    Args:
        overview: the run.
        sessions: all sessions of the run, in any order.
        file: where the page is written.
    """
    head, tail = _page(overview).split(SESSIONS)
    file.write(head)
    written = 0
    block: list[list[object]] = []
    async for session in sessions:
        block.append(_row(session))
        written += 1
        if len(block) == SESSIONS_IN_BLOCK:
            file.write(_block(block))
            block.clear()
    if block:
        file.write(_block(block))
    file.write(tail)
    return written


def _page(overview: RunOverview) -> str:
    style = "".join((STATIC / name).read_text(encoding="utf-8") for name in ("report.css", "labelling.css"))
    script = (STATIC / "labelling.js").read_text(encoding="utf-8")
    intents = overview.intents
    return (
        environment()
        .get_template("labelling.html")
        .render(
            run=overview,
            kinds=[(kind, TITLES[kind], overview.of_kind(kind)) for kind in LabelKind],
            most_listed=MOST_LISTED,
            treemaps=[
                (name, size, flows.treemap(intents, *size)) for name, size in (("wide", WIDE), ("narrow", NARROW))
            ],
            flow=flows.flow(overview.flows),
            bars=flows.bars(overview.new_labels),
            drifted=overview.since.drift if overview.since else (),
            titles=TITLES,
            aim=AGREEMENT_AIM,
            catch_all=CATCH_ALL_SHARE,
            style=Markup(style),  # noqa: S704 - files of this package
            script=Markup(script),  # noqa: S704
            policy=policy(style, script),
        )
    )


def _row(session: QuotedSession) -> list[object]:
    how = "fallback" if session.fallback else "by rule" if session.by_rule else ""
    labels = (session.intent, session.transfer_reason, session.drop_off_location)
    who = (session.session_id, session.user_id, session.containment.value)
    return [*who, *(label or "" for label in labels), session.summary, session.quote, how, session.ending_quote]


def _block(rows: list[list[object]]) -> str:
    """Data that a browser does not run, without a character that could end it."""
    data = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="sessions" data-count="{len(rows)}">{data}</script>\n'
