"""Makes simulated phone calls: `python -m simulator.twilio SCRIPT --url WEBHOOK`."""

import argparse
import asyncio
import json
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console

from simulator.twilio import ABOUT
from simulator.twilio.line import ACCOUNT_SID, AUTH_TOKEN, Account
from simulator.twilio.script import GRAMMAR, ScriptError, load, ready_scripts
from simulator.twilio.simulation import CALLER, NUMBER, Plan, Simulated, Watch, simulate
from simulator.twilio.summary import summarize, turns_of
from simulator.twilio.view import MODELLED, Board, Talk, summary_panel

MOST_PHONE_CALLS = 500
PHONE_NUMBER = re.compile(r"\+\d{6,15}")


def main(arguments: list[str] | None = None) -> int:
    """Make the phone calls; the exit code is 1 if one had an error, 2 for a wrong argument."""
    options = _parser().parse_args(arguments)
    if options.scripts:
        return _list_scripts()
    try:
        plan = _plan(options)
    except ScriptError as problem:
        sys.stderr.write(f"simulator: {problem}\n")
        return 2
    console = Console(stderr=options.json, highlight=False)
    try:
        made = asyncio.run(_simulate(plan, console, is_quiet=options.json))
    except KeyboardInterrupt:
        return 130
    summary = summarize([one.log for one in made], plan.speed)
    if options.json:
        sys.stdout.write(json.dumps(_report(plan, made), ensure_ascii=True) + "\n")
    else:
        console.print(summary_panel(summary))
    return 1 if summary.errors else 0


async def _simulate(plan: Plan, console: Console, *, is_quiet: bool) -> list[Simulated]:
    view: AbstractContextManager[Watch | None] = nullcontext()
    if not is_quiet:
        what = "phone call" if plan.phone_calls == 1 else f"{plan.phone_calls} phone calls"
        console.print(f"[bold]Simulated {what}[/bold] to {plan.number}: {plan.voice_url}", soft_wrap=True)
        console.print(MODELLED, style="dim")
        view = Talk(console) if plan.phone_calls == 1 else Board(console, plan.phone_calls)
    with view as watch:
        return await simulate(plan, watch)


def _report(plan: Plan, made: list[Simulated]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "simulated": True,
        "about": ABOUT,
        "script": plan.script.name,
        "seed": plan.seed,
        "speed": plan.speed,
        "summary": summarize([one.log for one in made], plan.speed).as_json(),
        "phone_calls": [_phone_call(one, with_events=plan.phone_calls == 1) for one in made],
    }
    return report


def _phone_call(one: Simulated, *, with_events: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "call_sid": one.phone_call.dialled.sid,
        "from": one.phone_call.dialled.caller,
        "to": one.phone_call.dialled.number,
        "status": one.phone_call.status,
        "turns": [vars(turn) for turn in turns_of(one.log.events)],
        "warnings": [event.details["text"] for event in one.log.of("warning")],
        "errors": [event.details["text"] for event in one.log.of("error")],
    }
    return found | ({"events": [event.as_json() for event in one.log.events]} if with_events else {})


def _list_scripts() -> int:
    for name, line in ready_scripts().items():
        sys.stdout.write(f"{name:<14} {line}\n")
    sys.stdout.write(f"\n{GRAMMAR}")
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        script=load(options.script),
        voice_url=options.url,
        status_url=options.status_url,
        account=Account(
            sid=os.environ.get("TWILIO_ACCOUNT_SID") or ACCOUNT_SID,
            token=os.environ.get("TWILIO_AUTH_TOKEN") or AUTH_TOKEN,
            algorithm=f"HMAC_{options.algorithm}",
            public_url=options.public_url,
            local_url=options.url,
        ),
        caller=options.caller,
        number=options.number,
        phone_calls=options.calls,
        seed=options.seed,
        speed=options.speed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulator.twilio",
        description=f"Plays Twilio and a caller ({ABOUT}). TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN sign the requests.",
    )
    add = parser.add_argument
    add("script", nargs="?", default="barge-in", help="a ready script or a file (default %(default)s)")
    add("--url", required=False, default="http://127.0.0.1:8000/phone/voice", help="the voice webhook")
    add("--status-url", default=None, help="the status callback; without it none is sent")
    add("--public-url", default=None, help="the server's public address, which the simulator plays a tunnel for")
    add("--calls", type=_count, default=1, help="phone calls at once (default %(default)s)")
    add("--json", action="store_true", help="print JSON only on stdout")
    add("--seed", type=int, default=7, help="repeats the same forms, delays and orders (default %(default)s)")
    add("--speed", type=_speed, default=1.0, help="speech and waiting so many times as fast (default %(default)s)")
    add("--caller", type=_phone_number, default=CALLER, help="the number that calls (default %(default)s)")
    add("--number", type=_phone_number, default=NUMBER, help="the number that is called (default %(default)s)")
    add("--algorithm", choices=("SHA1", "SHA256"), default="SHA1", help="of the signature (default %(default)s)")
    add("--scripts", action="store_true", help="list the ready scripts and the steps, and exit")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MOST_PHONE_CALLS:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 1 to {MOST_PHONE_CALLS}")
    return int(text)


def _phone_number(text: str) -> str:
    if not PHONE_NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number such as +15550100001")
    return text


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number above 0, at most 1000")
    return speed


if __name__ == "__main__":
    sys.exit(main())
