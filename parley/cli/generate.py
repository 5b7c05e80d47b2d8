"""`parley generate`, and the dollars and routes that bound it."""

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from parley.cli import display
from parley.cli.console import ChatProviderName, Json, Workspace, err, out, show_json, with_client
from parley.client.client import Client
from parley.domain.budgets import Period
from parley.domain.errors import InvalidInput
from parley.domain.generate.contract import DEFAULT_ACTION, CachePolicy, GenerateResult, OnRateLimit
from parley.settings import Settings

budget = typer.Typer(no_args_is_help=True, help="See and set what a workspace may spend.")


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to answer; - reads it from stdin.")],
    user: Annotated[str, typer.Option(help="On whose account.")],
    action: Annotated[str, typer.Option(help="The kind of request: it decides price and policy.")] = DEFAULT_ACTION,
    system: Annotated[str | None, typer.Option(help="A system prompt before it.")] = None,
    model: Annotated[str | None, typer.Option(help="Ask this model first.")] = None,
    provider: Annotated[ChatProviderName | None, typer.Option(help="Ask this provider first.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    schema: Annotated[Path | None, typer.Option(help="A JSON schema that the answer must follow.")] = None,
    template: Annotated[str | None, typer.Option(help="A prompt by name, or name@version.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Take the template from the user's arm of it.")] = None,
    cache: Annotated[CachePolicy | None, typer.Option(help="May an earlier answer be given again?")] = None,
    on_rate_limit: Annotated[OnRateLimit | None, typer.Option(help="Wait, or take a cheaper model.")] = None,
    patience: Annotated[int, typer.Option(min=0, help="Seconds to wait while every provider is down.")] = 0,
    prospect: Annotated[str | None, typer.Option(help="Whom the answer is about.")] = None,
    key: Annotated[str | None, typer.Option(help="The same key is the same request, paid once.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Have one request answered: within budget, by the first model that can."""
    said = sys.stdin.read() if prompt == "-" else prompt
    messages = [{"role": "system", "content": system}] if system else []
    terms: dict[str, Any] = {
        "model": model,
        "provider": provider,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "response_schema": _schema(schema),
        "template": template,
        "experiment": experiment,
        "cache": cache,
        "on_rate_limit": on_rate_limit,
        "patience_seconds": patience,
        "prospect_id": prospect,
    }

    async def work(client: Client) -> GenerateResult:
        return await client.generate(
            [*messages, {"role": "user", "content": said}],
            user_id=user,
            action=action,
            key=key,
            **{name: value for name, value in terms.items() if value is not None},
        )

    result = with_client(workspace, work)
    show_json(result) if as_json else _show(result)
    if not result.success:
        raise typer.Exit(1)


def _schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"is no readable JSON: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise InvalidInput("is no JSON schema: an object is expected", where=str(path))
    return found


def _show(result: GenerateResult) -> None:
    """The answer alone on stdout; how it came about on stderr."""
    meta = result.meta
    if result.refusal is not None:
        err.print(f"refused ({result.refusal.code.value}): {result.refusal.message}", markup=False, soft_wrap=True)
    else:
        out.print(result.content, markup=False, highlight=False, soft_wrap=True)
        story = f"{display.story(meta)}\nrequest {meta.request_id}"
        err.print(story, markup=False, highlight=False, soft_wrap=True, style="dim")
    for warning in meta.warnings:
        err.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True, style="yellow")


@budget.command("show")
def budget_show(workspace: Workspace = "default", as_json: Json = False) -> None:
    """Show the caps, and what counts against them now."""

    async def work(client: Client) -> None:
        caps = await client.caps()
        if as_json:
            show_json(
                [
                    {
                        "period": cap.period.value,
                        "cap_usd": str(cap.cap_usd),
                        "left_usd": str(cap.left_usd),
                        "reserved_usd": str(cap.reserved_usd),
                        "confirmed_usd": str(cap.confirmed_usd),
                        "uncertain_usd": str(cap.uncertain_usd),
                    }
                    for cap in caps
                ]
            )
            return
        for cap in caps:
            taken = f"${cap.confirmed_usd} confirmed, ${cap.uncertain_usd} uncertain, ${cap.reserved_usd} reserved"
            out.print(
                f"{cap.period.value}: ${cap.left_usd} of ${cap.cap_usd} left ({taken})", highlight=False, soft_wrap=True
            )
        if not caps:
            out.print("no cap is set: spending is unbounded")

    with_client(workspace, work)


@budget.command("set")
def budget_set(
    period: Period,
    dollars: Annotated[str, typer.Argument(help="The most that may be spent in it, or none.")],
    workspace: Workspace = "default",
) -> None:
    """Bound what the workspace may spend in a day, an ISO week or a month, in UTC; from now on."""
    cap = None if dollars == "none" else _dollars(dollars)

    async def work(client: Client) -> None:
        await client.set_cap(period, cap)
        out.print(f"{period.value}: {'no cap' if cap is None else f'at most ${cap}'}", highlight=False)

    with_client(workspace, work)


def _dollars(text: str) -> Decimal:
    try:
        amount = Decimal(text.removeprefix("$"))
    except ArithmeticError:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise InvalidInput(f"{text!r} is no amount of dollars, nor none", where="dollars")
    return amount


def policy(as_json: Json = False) -> None:
    """Check the policy file and show its routes."""
    found = Settings().policy()
    if as_json:
        show_json(found)
        return
    for route in sorted(found.route, key=lambda one: one.priority):
        tiers = ", ".join(route.tiers) or "every tier"
        limit = f", at most ${route.max_cost_usd}" if route.max_cost_usd is not None else ""
        name = route.model or "the environment's model"
        out.print(f"{route.priority}. {route.provider.value} {name}: {tiers}{limit}", highlight=False, markup=False)
