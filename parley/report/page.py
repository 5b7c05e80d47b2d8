"""Renders the view of an analysis: as a page of its own that opens offline, and as a part of the console."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from parley.domain.session import Session
from parley.domain.session_analysis import Analysis
from parley.domain.voice_metrics import as_measured
from parley.report import drawing, filters
from parley.report.media import media_type

HERE = Path(__file__).parent
TEMPLATES, STATIC = HERE / "templates", HERE / "static"
# A larger recording is not embedded: base64 adds a third, and a browser reads the whole page before it plays.
MOST_EMBEDDED = 8_000_000


def add_filters(environment: Environment) -> None:
    """Give an environment what the templates of this folder need."""
    environment.filters.update(
        clock=filters.clock,
        duration=filters.duration,
        figure=filters.figure,
        moment=filters.moment,
        number=filters.number,
        percent=filters.percent,
    )
    environment.globals.update(dash=filters.NONE)


def view(analysis: Analysis, session: Session | None, sound: str) -> Mapping[str, Any]:
    """The context of the template `analysis-view.html`. `sound`: the address of the recording; empty: none to play."""
    return {
        "analysis": analysis,
        "session": session,
        "sound": sound,
        "line": drawing.time_line(session, analysis.coaching, analysis.voice_metrics.sounds) if session else None,
        "curves": _curves(analysis),
        "trend_lines": drawing.scores(analysis.trends),
        "points": dict(drawing.anchored(analysis.coaching)),
        "measured": as_measured(analysis.voice_metrics),
        "titles": {skill.id: skill.title for skill in analysis.coaching.skills},
    }


def report_page(analysis: Analysis, session: Session | None, audio: bytes | None, *, link: str = "") -> str:
    """One file that opens without a network: styles, script and recording are in it.

    Args:
        analysis: the result.
        session: what was said; None if it has been purged.
        audio: the recording; one of more than `MOST_EMBEDDED` bytes is left out.
        link: the address of a recording that is left out, relative to the page; default: none.
    """
    sound = ""
    if audio is not None:
        sound = _data_uri(audio) if len(audio) <= MOST_EMBEDDED else link
    style, script = ((STATIC / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        environment()
        .get_template("report.html")
        .render(
            **view(analysis, session, sound),
            style=Markup(style),  # noqa: S704 - a file of this package
            script=Markup(script),  # noqa: S704
            policy=policy(style, script),
        )
    )


def _data_uri(audio: bytes) -> str:
    return f"data:{media_type(audio)};base64,{base64.b64encode(audio).decode()}"


def policy(style: str, script: str) -> str:
    """The page's policy: nothing from anywhere, but its style and script by their hashes, and the recording."""
    return (
        f"default-src 'none'; style-src 'sha256-{_sha256(style)}'; script-src 'sha256-{_sha256(script)}'; "
        "media-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _curves(analysis: Analysis) -> tuple[tuple[str, str, str, float, float], ...]:
    """Each measured curve: its name, its unit, its path, and its lowest and highest value."""
    curves = analysis.curves
    if curves is None:
        return ()
    found = (("pitch", "Hz", curves.pitch_hz), ("loudness", "dB", curves.loudness_db))
    known = [(name, unit, values, [one for one in values if one is not None]) for name, unit, values in found]
    return tuple((name, unit, drawing.curve(values), min(own), max(own)) for name, unit, values, own in known if own)


@cache
def environment() -> Environment:
    """The templates of this folder. Every text is escaped."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    add_filters(made)
    return made
