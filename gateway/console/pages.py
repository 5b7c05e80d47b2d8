"""How pages are rendered: templates that escape all text, and headers that keep a page to this origin."""

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from parley.report import page as report
from parley.report.filters import NONE, milliseconds, moment

if TYPE_CHECKING:
    from gateway.errors import Problem

PREFIX = "/console"
STATIC = f"{PREFIX}/static"
HERE = Path(__file__).parent
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
    folders = (HERE / "static", report.STATIC)
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


VERSION = _version()


def static_files() -> ConsoleFiles:
    """What is served below `STATIC`."""
    return ConsoleFiles(directory=HERE / "static", packages=[("parley", "report/static")])


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


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader([HERE / "templates", report.TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    report.add_filters(made)
    made.filters.update(
        milliseconds=milliseconds,
        moment=moment,
        usd=usd,
    )
    made.globals.update(prefix=PREFIX, static=f"{STATIC}/{VERSION}", job_url=job_url, quote=quote)
    return made


TEMPLATES = _environment()
