"""The line coverage of the suite: SlipCover measures it, and this plugin prints it before pytest's last line.

SlipCover merges the figures of the test processes. Code that tests run in other processes, such as a worker that they
kill, is not counted.
"""

import json
import os
from pathlib import Path

import pytest
import slipcover

SHOWN_BELOW_PERCENT = 90

# SlipCover replaces the code of running functions once it needs their probes no more. With it, two of three runs of the
# suite lost a test process to a segmentation fault. Probes that stay only count.
slipcover.Slipcover.deinstrument_seen = lambda self: None  # pyright: ignore[reportAttributeAccessIssue]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    merged = Path(os.environ.get("SLIPCOVER_COVERAGE_DIR", "")) / "merged.json"
    if not merged.is_file():
        return
    coverage = json.loads(merged.read_text(encoding="utf-8"))
    terminalreporter.section("line coverage")
    percents = {name: entry["summary"]["percent_covered"] for name, entry in coverage["files"].items()}
    for name, percent in sorted(percents.items(), key=lambda item: item[1]):
        if percent < SHOWN_BELOW_PERCENT:
            terminalreporter.write_line(f"{percent:5.1f}%  {name}")
    total = coverage["summary"]["percent_covered"]
    terminalreporter.write_line(f"{total:5.1f}%  of the lines in {len(percents)} modules")
