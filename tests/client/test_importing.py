"""Imports on a real PostgreSQL: the whole file or nothing; errors name line and field."""

import asyncio
import codecs
import csv
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from parley.cli.jobs import import_file
from parley.client.chat_files import MAX_LINE_CHARACTERS
from parley.client.importing import Imported, Skipped, import_chats
from parley.domain import tokens
from parley.domain.chat import Containment
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.tokens import count_tokens
from parley.storage.datasets import load_dataset, session_facts
from starter.embedded import Addresses
from tests.client.desk import Desk, as_bytes, database, desk
from tests.parts import SAMPLES

__all__ = ["database", "desk"]  # fixtures
KINDS = [kind.value for kind in Containment]
COLUMNS = ["session_id", "user_id", "bot_id", "containment", "messages"]


def session(name: object = "s-1", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "text": f"my invoice {name} is wrong"}, {"role": "bot", "text": "Let me see."}]
    return {"session_id": str(name), "user_id": "u", "containment": "agent", "messages": messages, **changes}


def saying(words: str, **changes: Any) -> dict[str, Any]:
    return session(messages=[{"role": "user", "text": words, **changes}])


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in session().items() if name != field}


def lines(*sessions: object) -> str:
    """The lines as JSONL; a string is a line verbatim."""
    return "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in sessions)


def as_csv(*sessions: dict[str, Any], columns: list[str] = COLUMNS, **dialect: Any) -> str:
    made = io.StringIO()
    rows = csv.DictWriter(made, columns, **dialect)
    rows.writeheader()
    for entry in sessions:
        cells = {**entry, "messages": json.dumps(entry["messages"], indent=1)}
        rows.writerow({column: cells.get(column, "") for column in columns})
    return made.getvalue()


class Interrupted(BaseException):
    """An interrupt, as Ctrl-C raises it."""


def interrupted(read: int) -> None:
    if read >= 1000:
        raise Interrupted


AB = (session("a"), session("b"))


class TestFiles:
    async def test_a_large_file_is_streamed_in_order(self, desk: Desk) -> None:
        many = [session(at, containment=KINDS[at % 3]) for at in range(3000)]
        progress: list[int] = []
        imported = await desk.load(lines(*many), on_progress=progress.append)
        assert (imported.sessions, imported.known, imported.skipped) == (3000, False, ())
        assert progress == [500, 1000, 1500, 2000, 2500, 3000]
        found = await desk.stored(imported)
        assert [(facts.position, facts.session_id) for facts in found] == [(at, str(at)) for at in range(3000)]
        assert [facts.containment.value for facts in found] == [KINDS[at % 3] for at in range(3000)]
        assert imported.tokens == sum(facts.tokens for facts in found)

    @pytest.mark.parametrize(
        "content",
        [
            lines(*AB),
            lines(*AB).rstrip("\n"),
            "\ufeff" + lines(*AB),
            lines("", AB[0], "   \t", "", AB[1], ""),
            lines(*AB).replace("\n", "\r\n"),
            "\ufeff" + lines("", AB[0], "", AB[1]).replace("\n", "\r\n"),
            lines(*AB).encode("utf-16"),
            lines(*AB).encode("utf-32"),
            json.dumps(AB),
            json.dumps(AB, indent=2),
            "".join(json.dumps(one, indent=1) for one in AB),
        ],
        ids=[
            *("plain", "no last line end", "BOM", "blank lines", "CRLF", "all of them", "UTF-16", "UTF-32"),
            *("one list", "one list in lines", "objects in lines"),
        ],
    )
    async def test_jsonl_variants_are_accepted(self, content: str | bytes, desk: Desk) -> None:
        assert await desk.names(await desk.load(content)) == ["a", "b"]

    @pytest.mark.parametrize(
        "content",
        [
            as_csv(*AB),
            "\ufeff" + as_csv(*AB),
            as_csv(*AB, lineterminator="\n").rstrip("\n"),
            "\r\n" + as_csv(*AB) + "\r\n\r\n",
            as_csv(*AB, quoting=csv.QUOTE_ALL),
            as_csv(*AB, columns=["containment", "messages", "session_id", "user_id"]),
            as_csv(*AB, delimiter=";"),
            as_csv(*AB, delimiter="\t"),
            "sep=;\r\n" + as_csv(*AB, delimiter=";"),
            as_csv(*AB).encode("utf-16"),
            as_csv(*AB, delimiter=";").encode("utf-16-be").join((codecs.BOM_UTF16_BE, b"")),
        ],
        ids=[
            *("plain", "BOM", "LF, no last line end", "blank lines", "all quoted", "other order, no bot_id"),
            *("semicolons", "tabs", "Excel's first line", "UTF-16", "UTF-16 BE, semicolons"),
        ],
    )
    async def test_csv_variants_are_accepted(self, content: str | bytes, desk: Desk) -> None:
        assert await desk.names(await desk.load(content, "chats.CSV")) == ["a", "b"]

    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    async def test_every_character_is_stored(self, form: str, desk: Desk) -> None:
        words = 'She said "no",\r\nthen, ""left"" ;\t señor 我的发票 🙂 \u2028\u0085\u000b\\n = , \'x\''
        given = session("a,\"b'\n", user_id="Zoë", bot_id=" ", messages=[{"role": "user", "text": words}])
        imported = await desk.load(lines(given) if form == "jsonl" else as_csv(given), f"chats.{form}")
        [found] = await desk.payloads(imported)
        assert found["messages"] == [{"role": "user", "text": words, "time": None}]
        assert (found["session_id"], found["user_id"], found["bot_id"]) == ("a,\"b'\n", "Zoë", " ")

    async def test_csv_and_jsonl_store_the_same(self, desk: Desk) -> None:
        timed = [{"role": "user", "text": "x", "time": "2026-03-02T10:00:00+02:00"}]
        sessions = [session("a", bot_id="b"), session("b", bot_id="", messages=timed)]
        forms = [await desk.load(lines(*sessions)), await desk.load(as_csv(*sessions), "chats.csv")]
        first, second = [(await desk.stored(imported), await desk.payloads(imported)) for imported in forms]
        assert first == second

    async def test_the_first_time_in_a_session_is_its_start(self, desk: Desk) -> None:
        messages = [
            {"role": "bot", "text": "Hi"},
            {"role": "user", "text": "x", "time": "2026-03-02T10:00:00+02:00"},
            {"role": "bot", "text": "y", "time": "2026-03-02T11:00:00+02:00"},
        ]
        timed, untimed = await desk.stored(await desk.load(lines(session("a", messages=messages), session("b"))))
        assert timed.started_at
        assert timed.started_at.isoformat() == "2026-03-02T08:00:00+00:00"
        assert untimed.started_at is None

    async def test_silent_and_identical_sessions_are_imported(self, desk: Desk) -> None:
        silent = session("a", messages=[{"role": "bot", "text": "Hello?"}, {"role": "user", "text": "  "}])
        same = [{**session("x"), "session_id": str(at)} for at in range(3)]
        assert await desk.names(await desk.load(lines(silent, *same))) == ["a", "0", "1", "2"]

    async def test_a_file_of_one_session(self, desk: Desk) -> None:
        assert (await desk.load(lines(session()))).sessions == 1

    async def test_a_file_whose_name_is_not_utf_8(self, desk: Desk) -> None:
        assert (await desk.load(lines(session()), "caf\udce9.jsonl")).sessions == 1
        assert await desk.rows() == (1, 1)


class TestIdempotence:
    async def test_the_same_content_is_imported_once(self, desk: Desk) -> None:
        first, again = await desk.load(lines(*AB)), await desk.load(lines(*AB), "renamed.jsonl")
        assert again == first.model_copy(update={"known": True})
        assert await desk.rows() == (1, 2)

    async def test_other_content_is_another_dataset(self, desk: Desk) -> None:
        first, other = await desk.load(lines(AB[0])), await desk.load(lines(*AB))
        assert first.dataset_id != other.dataset_id
        assert await desk.rows() == (2, 3)

    async def test_skipping_lines_makes_another_dataset(self, desk: Desk) -> None:
        whole, lenient = await desk.load(lines(*AB)), await desk.load(lines(*AB), skip_invalid=True)
        assert whole.dataset_id != lenient.dataset_id
        assert (await desk.load(lines(*AB), skip_invalid=True)).known

    async def test_skipped_lines_are_listed_again(self, desk: Desk) -> None:
        content = lines(AB[0], "{", *(session(at) for at in range(1200)), session(7))
        first, again = [await desk.load(content, skip_invalid=True) for _ in range(2)]
        assert [skipped.line for skipped in first.skipped] == [2, 1203]
        assert again == first.model_copy(update={"known": True})

    async def test_another_workspace_has_its_own_dataset(self, desk: Desk) -> None:
        mine, theirs = await desk.load(lines(*AB)), await desk.load(lines(*AB), workspace=f"not {desk.workspace}")
        assert (mine.dataset_id, theirs.known) == (theirs.dataset_id, False)
        async with desk.database.transaction() as tx:
            with pytest.raises(NotFound):
                await load_dataset(tx, "another-workspace", mine.dataset_id)
            assert await session_facts(tx, "another-workspace", mine.dataset_id) == []

    async def test_concurrent_imports_of_one_file_store_it_once(self, desk: Desk) -> None:
        content = lines(*(session(at) for at in range(1200)))
        done = await asyncio.gather(*(desk.load(content) for _ in range(4)))
        assert sorted(imported.known for imported in done) == [False, True, True, True]
        assert len({(imported.dataset_id, imported.sessions, imported.tokens) for imported in done}) == 1
        assert await desk.rows() == (1, 1200)

    async def test_a_cancelled_import_leaves_nothing(self, desk: Desk) -> None:
        content = lines(*(session(at) for at in range(1200)))
        with pytest.raises(Interrupted):
            await desk.load(content, on_progress=interrupted)
        assert await desk.rows() == (0, 0)
        assert not (await desk.load(content)).known

    async def test_an_import_that_waits_for_one_that_fails_takes_over(self, desk: Desk) -> None:
        content = lines(*(session(at) for at in range(1200)))
        reached = asyncio.Event()

        def fails(read: int) -> None:
            reached.set()
            if read >= 1000:
                raise RuntimeError("out of memory")

        first = asyncio.create_task(desk.load(content, on_progress=fails))
        await reached.wait()
        second = asyncio.create_task(desk.load(content))
        with pytest.raises(RuntimeError):
            await first
        assert not (await second).known
        assert await desk.rows() == (1, 1200)


LONG = "x" * (MAX_LINE_CHARACTERS + 10)
GOOD = json.dumps(session("good"))
# A line between two good ones: the field that is wrong with it, and what the error says.
BAD_LINES: dict[str, tuple[str | bytes | dict[str, Any], str, str]] = {
    "not JSON": ("{", "", "is not JSON: Expecting property name enclosed in double quotes at column 2"),
    "two sessions on a line": (GOOD + GOOD, "", "is not JSON"),
    "a number that is none": (GOOD.replace('"u"', "NaN"), "", "NaN"),
    "a duplicate name": ('{"session_id": "x", "session_id": "y"}', "", "is twice in one object"),
    "nested too deeply": ("[" * 100_000, "", "nested too deeply"),
    "not an object": ('["s"]', "", "is not a JSON object"),
    "null": ("null", "", "is not a JSON object"),
    "not UTF-8": (b'{"session_id": "\xff"}', "", "is not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "", "is not UTF-8"),
    "known session_id": (session("first"), "session_id", "is on line 1 already"),
    "no session_id": (session(session_id=None), "session_id", "valid string"),
    "blank session_id": (session(" "), "session_id", "must not be blank"),
    "no user_id": (without("user_id"), "user_id", "required"),
    "no messages": (session(messages=[]), "messages", "has no message"),
    "messages missing": (without("messages"), "messages", "required"),
    "messages as text": (session(messages="hello"), "messages", "valid tuple"),
    "unknown containment": (session(containment="escalated"), "containment", "'selfService'"),
    "unknown role": (saying("x", role="system"), "messages.0.role", "'bot'"),
    "a message without text": (session(messages=[{"role": "user"}]), "messages.0.text", "required"),
    "NUL": (saying("a\0b"), "messages.0.text", "not text that can be stored"),
    "half a surrogate pair": (saying("a\ud800"), "messages.0.text", "not text that can be stored"),
    "a time without zone": (saying("x", time="2026-03-02 10:00"), "messages.0.time", "timezone"),
    "a time beyond the calendar": (saying("x", time="0001-01-01T00:00:00+14:00"), "messages.0.time", "calendar"),
    "another field": (session(topic="billing"), "topic", "not permitted"),
    "a field of several lines": (session(**{"a\nb" * 100: 1}), "", "not permitted"),
    "10 MB": (saying("x" * 10_000_000), "", "longer than 5,000,000 characters"),
}


class TestBadLines:
    @pytest.mark.parametrize("name", BAD_LINES)
    async def test_a_bad_line_is_named_and_can_be_skipped(self, name: str, desk: Desk) -> None:
        bad, field, problem = BAD_LINES[name]
        line = as_bytes(json.dumps(bad) if isinstance(bad, dict) else bad)
        content = lines(session("first")).encode() + line + b"\n" + lines("", session("last")).encode()
        error = await desk.refused(content)
        assert error.where == "chats.jsonl: line 2"
        assert error.field.startswith(field) if name == "a field of several lines" else error.field == field
        assert problem in error.problem
        imported = await desk.load(content, skip_invalid=True)
        assert imported.skipped == (Skipped(line=2, field=error.field, problem=error.problem),)
        assert await desk.names(imported) == ["first", "last"]

    async def test_a_late_bad_line_rolls_back_the_whole_file(self, desk: Desk) -> None:
        content = lines(*(session(at) for at in range(2500)), "{", *(session(at) for at in range(2500, 2600)))
        assert str(await desk.refused(content)).startswith("chats.jsonl: line 2501: is not JSON")

    async def test_a_distant_duplicate_is_found(self, desk: Desk) -> None:
        error = await desk.refused(lines(*(session(at) for at in range(1, 1202)), session(7)))
        assert str(error) == "chats.jsonl: line 1202: session_id: is on line 7 already: make it unique"

    async def test_all_bad_lines_are_listed_and_positions_stay_dense(self, desk: Desk) -> None:
        good = [session(name) for name in "abc"]
        bad = [session(containment="x"), "{", "", session("a"), session(user_id="")]
        imported = await desk.load(lines(good[0], bad[0], good[1], *bad[1:], good[2]), skip_invalid=True)
        listed = [(skipped.line, skipped.field) for skipped in imported.skipped]
        assert listed == [(2, "containment"), (4, ""), (6, "session_id"), (7, "user_id")]
        found = await desk.stored(imported)
        assert [(facts.position, facts.session_id) for facts in found] == [(0, "a"), (1, "b"), (2, "c")]
        assert imported.sessions == 3

    async def test_a_skipped_session_does_not_reserve_its_id(self, desk: Desk) -> None:
        imported = await desk.load(lines(session("a", containment="x"), session("a")), skip_invalid=True)
        assert (imported.sessions, len(imported.skipped)) == (1, 1)

    @pytest.mark.parametrize("content", ["", "\n\n  \n", "\ufeff"])
    async def test_an_empty_file_has_no_session(self, content: str, desk: Desk) -> None:
        for skip in (False, True):
            assert str(await desk.refused(content, skip_invalid=skip)) == "chats.jsonl: has no session"

    async def test_a_file_of_only_bad_lines_names_the_first_problem(self, desk: Desk) -> None:
        error = await desk.refused(lines("", session(containment="x"), "{"), skip_invalid=True)
        assert (error.where, error.field) == ("chats.jsonl: line 2", "containment")
        assert error.problem.endswith("(none of 2 lines is valid)")

    @pytest.mark.parametrize("name", ["missing.jsonl", "."])
    async def test_a_file_that_cannot_be_read_is_named(self, name: str, desk: Desk) -> None:
        with pytest.raises(InvalidInput, match="cannot be read"):
            await import_chats(desk.database, desk.workspace, desk.folder / name)


HEADER = ",".join(COLUMNS) + "\n"
CELL = '"[{""role"": ""user"", ""text"": ""x""}]"'


class TestBadTables:
    @pytest.mark.parametrize(
        "header",
        [
            "",
            "session_id,user_id,containment",
            "session_id,user_id,containment,messages,extra",
            "session_id,session_id,user_id,containment,messages",
            "session_id,user_id,bot_id,bot_id,containment,messages",
            "Session_ID,user_id,containment,messages",
            '{"session_id": "a"}',
            '"several\nlines",b',
            "x" * 100_000,
            "x," * 100_000,
        ],
        ids=lambda header: ascii(header[-30:]),
    )
    async def test_wrong_columns_are_named(self, header: str, desk: Desk) -> None:
        error = await desk.refused(f"{header}\na,b,c,d,e\n" if header else "", "chats.csv", skip_invalid=True)
        assert error.where == "chats.csv"
        expected = "columns must be session_id, user_id, containment, messages, and may be bot_id; found "
        assert error.problem.startswith(expected)

    async def test_a_table_without_rows_has_no_session(self, desk: Desk) -> None:
        assert str(await desk.refused(HEADER, "chats.csv")) == "chats.csv: has no session"

    @pytest.mark.parametrize(
        ("row", "field", "problem"),
        [
            ("b,u,,agent", "", "has 4 cells for 5 columns"),
            (f"b,u,,agent,{CELL},more", "", "has 6 cells for 5 columns"),
            ("b,u,,agent,hello", "messages", "is not JSON"),
            ("b,u,,agent,", "messages", "is not JSON"),
            ("b,u,,agent,[]", "messages", "has no message"),
            (f"b,,,agent,{CELL}", "user_id", "must not be blank"),
            (f"b,u,,escalated,{CELL}", "containment", "'selfService'"),
            (f"a,u,,agent,{CELL}", "session_id", "is on line 2 already"),
            (f"b,u\udcff,,agent,{CELL}", "user_id", "is not UTF-8"),
            (f"b,{'u' * 201},,agent,{CELL}", "user_id", "at most 200"),
            (f"b,{LONG},,agent,{CELL}", "", "longer than 5,000,000 characters"),
        ],
        ids=lambda value: ascii(value[:20]),
    )
    async def test_a_bad_row_is_named_by_its_first_line_and_can_be_skipped(
        self, row: str, field: str, problem: str, desk: Desk
    ) -> None:
        several = '"[\n{""role"": ""user"",\n""text"": ""x""}]"'
        made = f"{HEADER}a,u,,agent,{several}\n\n{row}\nc,u,,agent,{CELL}\n".encode(errors="surrogateescape")
        error = await desk.refused(made, "chats.csv")
        assert (error.where, error.field) == ("chats.csv: line 6", field)
        assert problem in error.problem
        imported = await desk.load(made, "chats.csv", skip_invalid=True)
        assert imported.skipped == (Skipped(line=6, field=field, problem=error.problem),)
        assert await desk.names(imported) == ["a", "c"]

    async def test_an_error_in_a_multi_line_cell_has_one_place(self, desk: Desk) -> None:
        cell = '[\n{"role": "user",\n"text": }]'
        made = f'{HEADER}a,u,,agent,"{cell.replace(chr(34), chr(34) * 2)}"\n'
        error = str(await desk.refused(made, "chats.csv"))
        at = cell.index("}") + 1
        assert error == f"chats.csv: line 2: messages: is not JSON: Expecting value at character {at}"

    @pytest.mark.parametrize("row", ['b,u,,agent,"[{', 'b,u,,agent,"x"y'])
    async def test_a_wrong_quote_cannot_be_skipped(self, row: str, desk: Desk) -> None:
        """All rows after it would be skipped too."""
        made = f"{HEADER}a,u,,agent,{CELL}\n{row}\n" + "".join(f"{at},u,,agent,x\n" for at in range(50))
        assert str(await desk.refused(made, "chats.csv", skip_invalid=True)).startswith("chats.csv: line 3: is not CSV")


class TestTokens:
    async def test_counts_equal_tiktokens(self, desk: Desk) -> None:
        texts = ["My invoice is wrong.", "", " ", "señor 我的发票 🙂", "a" * 5000, "<|endoftext|>", "def f(x):\n\tpass"]
        sessions = [session(at, messages=[{"role": "bot", "text": words}] * 2) for at, words in enumerate(texts)]
        imported = await desk.load(lines(*sessions))
        encoding = tiktoken.get_encoding("o200k_base")
        expected = [2 * (len(encoding.encode(words, disallowed_special=())) + 4) for words in texts]
        assert [facts.tokens for facts in await desk.stored(imported)] == expected
        assert imported.tokens == sum(expected)

    @pytest.mark.parametrize("unit", [" ", "\n", "word ", "我"])
    def test_a_very_long_text_is_counted(self, unit: str) -> None:
        short, long = (count_tokens(unit * (size // len(unit))) for size in (100_000, 1_500_000))
        assert long == pytest.approx(15 * short, rel=0.02)

    def test_the_vocabulary_is_loaded_without_the_network_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setenv(tokens.CACHE_VARIABLE, "the caller's")
        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        assert len(tokens._loaded.__wrapped__().encode_ordinary("hello world")) == 2
        assert os.environ[tokens.CACHE_VARIABLE] == "the caller's"
        assert list(tmp_path.iterdir()) == []


async def test_the_command_needs_no_home_and_no_writable_directory(database_url: str, stack: Addresses) -> None:
    """As in the image, whose file system is read-only except for /tmp. Root cannot write below these paths either."""
    nowhere = {"HOME": "/dev/null", "DATABASE_URL": database_url, "TEMPORAL_ADDRESS": stack.temporal_address}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley", "import", str(SAMPLES / "chats" / "support.jsonl")),
        cwd="/proc",
        env=kept | nowhere,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"379 sessions imported" in output


async def test_skipped_lines_are_printed(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    class Face:
        async def import_chats(self, path: Path, **how: Any) -> Imported:
            return await import_chats(desk.database, desk.workspace, path, **how)

    path = desk.folder / "chats.jsonl"
    path.write_text(lines(session("a"), "{", session("b", containment="x")))
    await import_file(Face(), path, skip_invalid=True)  # pyright: ignore[reportArgumentType]
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("skipped chats.jsonl: line 2: is not JSON")
    assert shown[1].startswith("skipped chats.jsonl: line 3: containment: Input should be")
    assert shown[2].startswith("1 session imported")
