"""How pages are rendered: templates that escape all text, and headers that keep a page to this origin."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

if TYPE_CHECKING:
    from gateway.errors import Problem

PREFIX = "/console"
STATIC = f"{PREFIX}/static"
HERE = Path(__file__).parent
NONE = "–"
HEADERS = {
    # No script or style in a page itself, none of another host, no frame around a page, no form to another host.
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    # `no-referrer` would make a browser send the origin of a form as `null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
ONE_YEAR = "public, max-age=31536000, immutable"


class ConsoleFiles(StaticFiles):
    """Styles and scripts. Their addresses change with their content, so that browsers may keep them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, to be kept for a year."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = ONE_YEAR
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file at the path after its version."""
        return await super().get_response(path.partition("/")[2], scope)


def _version() -> str:
    files = sorted(path for path in (HERE / "static").rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


VERSION = _version()


def static_files() -> ConsoleFiles:
    """What is served below `STATIC`."""
    return ConsoleFiles(directory=HERE / "static")


def page(template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any) -> HTMLResponse:
    """A page. Texts of the context are escaped."""
    text = TEMPLATES.get_template(template).render(**context)
    return HTMLResponse(text, status, {**HEADERS, **(headers or {})})


def error_page(problem: "Problem", headers: Mapping[str, str]) -> HTMLResponse:
    """The page of an error. A part of a page that is refused with 401 makes htmx load the whole page again."""
    reload = {"hx-refresh": "true"} if problem.status == 401 else {}
    return page("error.html", status=problem.status, headers={**headers, **reload}, problem=problem)


def job_url(job_id: str, part: str = "jobs") -> str:
    """The address of a job's page, or of another page or action of it."""
    return f"{PREFIX}/{part}/{quote(job_id, safe='')}"


def usd(amount: Decimal | None, places: int = 6) -> str:
    """An amount in USD with as many places, so that a column aligns; all of them if it would be rounded to 0."""
    if amount is None:
        return NONE
    text = f"{amount:,.{places}f}"
    return f"${amount:,f}" if amount and not text.strip("-0.,") else f"${text}"


def moment(time: datetime | None, *, seconds: bool = False) -> str:
    """A time in UTC, which the page says once."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M") if time else NONE


def percent(share: float | None) -> str:
    """A share from 0 to 1."""
    return NONE if share is None else f"{share:.1%}"


def duration(seconds: float | timedelta | None) -> str:
    """A duration in its most readable unit."""
    if seconds is None:
        return NONE
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def milliseconds(amount: float | None) -> str:
    """A duration that is given in milliseconds."""
    return duration(None if amount is None else amount / 1000)


def clock(seconds: float) -> str:
    """A place in a session: minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def number(count: float | None) -> str:
    """A number with separators between thousands."""
    return NONE if count is None else f"{count:,}"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        clock=clock,
        duration=duration,
        milliseconds=milliseconds,
        moment=moment,
        number=number,
        percent=percent,
        usd=usd,
    )
    made.globals.update(prefix=PREFIX, static=f"{STATIC}/{VERSION}", job_url=job_url, quote=quote, dash=NONE)
    return made


TEMPLATES = _environment()
