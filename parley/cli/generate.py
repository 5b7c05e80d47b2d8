"""`parley generate`, and what shapes its answers: `parley policy` and `parley prompts`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box

from parley import (
    CachePolicy,
    Client,
    GenerateOptions,
    GenerateResult,
    InvalidInput,
    OnRateLimit,
    Provider,
    Settings,
    TextDelta,
    ToolCallDelta,
)
from parley.cli import display
from parley.cli.console import (
    Json,
    Workspace,
    checked_key,
    err,
    known_in_policy,
    out,
    show_json,
    show_json_line,
    with_client,
)
from parley.cli.table import Column, Table
from parley.client.reading import read_json, read_text
from parley.domain.generate.contract import DEFAULT_ACTION
from parley.domain.generate.prompts import PLACEHOLDERS, Template, templates
from parley.domain.generate.prompts import template as find_template
from parley.domain.requests import ChatProviderName

app = typer.Typer()


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to answer; - reads it from stdin.")],
    user: Annotated[str, typer.Option(help="Whose energy pays.")],
    action: Annotated[str, typer.Option(help="The kind of request: it decides price and policy.")] = DEFAULT_ACTION,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    model: Annotated[str | None, typer.Option(help="Call this model first.")] = None,
    provider: Annotated[ChatProviderName | None, typer.Option(help="Call this provider first.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Sampling temperature.")] = None,
    schema: Annotated[Path | None, typer.Option(help="A JSON schema that the answer must follow.")] = None,
    template: Annotated[str | None, typer.Option(help="A prompt by name, or name@version.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Use the template of the user's arm of it.")] = None,
    cache: Annotated[CachePolicy | None, typer.Option(help="Whether an earlier answer may be returned.")] = None,
    on_rate_limit: Annotated[OnRateLimit | None, typer.Option(help="Wait, or use a cheaper model.")] = None,
    wait_limit: Annotated[int, typer.Option(min=0, help="Seconds to wait while every provider is down.")] = 0,
    prospect: Annotated[str | None, typer.Option(help="The person that the answer is about.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key is paid once.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer while it is made.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Answer one request within the budget, with the first model that can."""
    policy, key = Settings().policy(), checked_key(key)
    known_in_policy("--action", action, {DEFAULT_ACTION, *policy.action})
    if experiment is not None:
        known_in_policy("--experiment", experiment, policy.experiment)
    # A byte that is not UTF-8 becomes half of a surrogate pair, as in an argument: it is refused with its place.
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if prompt == "-" else prompt
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    options: GenerateOptions = {
        "model": model,
        "provider": Provider(provider) if provider else None,
        "temperature": temperature,
        "response_schema": _schema(schema),
        "template": template,
        "experiment": experiment,
        "cache": cache,
        "on_rate_limit": on_rate_limit,
        "wait_limit_seconds": wait_limit,
        "prospect_id": prospect,
    }
    if max_tokens is not None:
        options["max_tokens"] = max_tokens

    async def work(client: Client) -> GenerateResult:
        if not stream:
            return await client.generate(messages, user_id=user, action=action, key=key, **options)
        async with client.generate_stream(messages, user_id=user, action=action, key=key, **options) as answer:
            async for delta in answer:
                _print_delta(delta, as_json=as_json)
            return await answer.result()

    result = with_client(workspace, work)
    if as_json:
        show_json_line(result) if stream else show_json(result)
    else:
        _show(result, is_printed=stream)
    if not result.success:
        raise typer.Exit(1)


def _schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    found = read_json(read_text(path), where=path.name)
    if not isinstance(found, dict):
        raise InvalidInput('must be a JSON schema: a JSON object, for example {"type": "object"}', where=str(path))
    return found


def _print_delta(delta: TextDelta | ToolCallDelta, *, as_json: bool) -> None:
    """Print a delta of the answer: its text, or one line of JSON. Tool calls have no text."""
    if as_json:
        show_json_line(delta)
    elif isinstance(delta, TextDelta):
        out.begin(delta.text)


def _show(result: GenerateResult, *, is_printed: bool) -> None:
    """Print the answer alone on stdout, and its origin and cost on stderr. `is_printed`: all but its line's end."""
    meta = result.meta
    if result.refusal is not None:
        err.say(f"refused ({result.refusal.code.value}): {result.refusal.message}")
    else:
        out.say("" if is_printed else result.content or "")
        story = f"{display.story(meta)}\nrequest {meta.request_id}"
        err.say(story, style="dim")
    for warning in meta.warnings:
        err.say(f"warning: {warning}", style="yellow")


@app.command()
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
        out.say(f"{route.priority}. {route.provider.value} {name}: {tiers}{limit}")


@app.command()
def prompts(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one; or name@version.")] = None,
    as_json: Json = False,
) -> None:
    """List the prompts, or show one with its placeholders."""
    if name is None:
        show_json([_described(one) for one in templates()]) if as_json else out.print(_prompts())
        return
    found = find_template(name)
    if as_json:
        show_json(_described(found) | {"text": found.text})
        return
    out.say(f"{found.id}: {found.purpose}")
    out.say(f"\n{found.text}")
    if found.placeholders:
        out.print(_placeholders(found))


def _described(one: Template) -> dict[str, object]:
    return {"id": one.id, **one.model_dump(exclude={"text"}), "placeholders": one.placeholders}


def _prompts() -> Table:
    shown = Table(Column("prompt", overflow="fold"), "used by", "what for", box=box.SIMPLE)
    for one in templates():
        shown.add_row(one.id, one.job or "any request", one.purpose)
    return shown


def _placeholders(one: Template) -> Table:
    shown = Table("placeholder", "value", "without it", box=box.SIMPLE)
    for name in one.placeholders:
        shown.add_row(name, PLACEHOLDERS[name].about, PLACEHOLDERS[name].neutral)
    return shown
