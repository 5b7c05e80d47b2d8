"""What the Temporal UI shows of a run."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from parley import visibility
    from parley.domain.auto_analyze.contract import AutoAnalyzeProgress

WAITING_SHOWN = 3


def as_table(progress: AutoAnalyzeProgress) -> str:
    """The progress as a Markdown table, and below it what is waited for."""
    left = progress.seconds_left
    rows = {
        "phase": progress.phase.value,
        "sessions": f"{progress.sessions_done:,} of {progress.sessions_total:,}",
        "rounds": progress.rounds,
        "rate": f"{progress.rate} sessions/s",
        "streams": _streams(progress),
        "new labels": progress.new_labels,
        "warnings": progress.warnings,
        "tokens": f"{progress.tokens:,}",
        "cost": f"${progress.cost_usd}",
        "left": "" if left is None else f"about {timedelta(seconds=round(left))}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    waiting = [f"stream {stream.stream}: {stream.waiting}" for stream in progress.streams if stream.waiting]
    notes = [note for note in (progress.note, *waiting[:WAITING_SHOWN]) if note]
    return f"| | |\n|---|---|\n{table}" + "".join(f"\n\n{visibility.plain(note)}" for note in notes)


def _streams(progress: AutoAnalyzeProgress) -> str:
    """The streams of the round in few words, however many they are."""
    if progress.degraded:
        return "degraded to sequential"
    done = sum(stream.done >= stream.sessions for stream in progress.streams)
    waiting = sum(bool(stream.waiting) for stream in progress.streams)
    return f"{len(progress.streams)}, of which {done} are done and {waiting} wait" if progress.streams else ""
