"""The comparison with Twilio Agent Connect, as far as it goes without that package."""

import pytest

from tools import twilio_oracle
from tools.twilio_oracle import KNOWN, METHOD, PYTHON, Check


def test_without_the_package_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv(PYTHON, raising=False)

    assert twilio_oracle.main() == 2
    assert PYTHON in capsys.readouterr().err


def test_only_a_known_difference_is_expected_and_it_must_be_there():
    agreed, differed, absent = Check("setup", 1), Check("setup", 1, ["callSid"]), Check("setup")
    known, gone = Check(METHOD, 1, ["method"]), Check(METHOD, 1)

    assert [one.is_expected for one in (agreed, differed, absent, known, gone)] == [True, False, False, True, False]
    assert known.result == f"known: {KNOWN[METHOD]}"
    assert "callSid" in differed.result
