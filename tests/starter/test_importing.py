"""Imports on a real PostgreSQL: everything of a file or nothing, and a bad line named by its number and field."""

import asyncio
import csv
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from sqlalchemy import text

from domain.auto_analyze.sampling import SessionFacts
from domain.chat import Containment
from domain.errors import InvalidInput, NotFound
from starter import importing, tokens
from starter.cli import read_in
from starter.importing import MAX_LINE_CHARACTERS, Imported, import_chats
from starter.tokens import count_tokens
from storage.database import Database
from storage.datasets import load_dataset, session_facts

KINDS = [kind.value for kind in Containment]
COLUMNS = ["session_id", "user_id", "bot_id", "containment", "messages"]


def session(name: object = "s-1", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "text": f"my invoice {name} is wrong"}, {"role": "bot", "text": "Let me see."}]
    return {"session_id": str(name), "user_id": "u", "containment": "agent", "messages": messages, **changes}


def saying(words: str) -> dict[str, Any]:
    return session(messages=[{"role": "user", "text": words}])


def lines(*sessions: object) -> str:
    """As JSONL; a text is a line as it is."""
    return "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in sessions)


def as_csv(*sessions: dict[str, Any], columns: list[str] = COLUMNS, **dialect: Any) -> str:
    made = io.StringIO()
    rows = csv.DictWriter(made, columns, **dialect)
    rows.writeheader()
    for entry in sessions:
        cells = {**entry, "messages": json.dumps(entry["messages"], indent=1)}
        rows.writerow({column: cells.get(column, "") for column in columns})
    return made.getvalue()


Import = Callable[..., Awaitable[Imported]]


@pytest.fixture
def load(database: Database, tmp_path: Path) -> Import:
    """Import this content as a file of that name."""

    async def load(content: str | bytes, name: str = "chats.jsonl", *, workspace: str = "acme", **how: Any) -> Imported:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return await import_chats(database, workspace, path, **how)

    return load


async def stored(database: Database, imported: Imported, workspace: str = "acme") -> list[SessionFacts]:
    async with database.transaction() as tx:
        return await session_facts(tx, workspace, imported.dataset_id)


async def payloads(database: Database) -> list[dict[str, Any]]:
    async with database.transaction() as tx:
        return list((await tx.execute(text("SELECT payload FROM chat_sessions ORDER BY position"))).scalars())


async def rows(database: Database) -> tuple[int, int]:
    """How many datasets and sessions there are."""
    async with database.transaction() as tx:
        query = "SELECT (SELECT count(*) FROM datasets), (SELECT count(*) FROM chat_sessions)"
        datasets, sessions = (await tx.execute(text(query))).one()
        return datasets, sessions


class TestFiles:
    async def test_a_large_file_is_streamed_in_its_order(self, load: Import, database: Database) -> None:
        many = [session(at, containment=KINDS[at % 3]) for at in range(3000)]
        told: list[int] = []
        imported = await load(lines(*many), on_progress=told.append)
        assert (imported.sessions, imported.known, imported.skipped) == (3000, False, ())
        assert told == [500, 1000, 1500, 2000, 2500, 3000]
        found = await stored(database, imported)
        assert [(fact.position, fact.session_id) for fact in found] == [(at, str(at)) for at in range(3000)]
        assert [fact.containment.value for fact in found] == [KINDS[at % 3] for at in range(3000)]
        assert imported.tokens == sum(fact.tokens for fact in found)

    @pytest.mark.parametrize(
        "content",
        [
            lines(session("a"), session("b")),
            lines(session("a"), session("b")).rstrip("\n"),
            "\ufeff" + lines(session("a"), session("b")),
            lines("", session("a"), "   \t", "", session("b"), ""),
            lines(session("a"), session("b")).replace("\n", "\r\n"),
            "\ufeff" + lines("", session("a"), "", session("b")).replace("\n", "\r\n"),
            as_csv(session("a"), session("b")),
            "\ufeff" + as_csv(session("a"), session("b")),
            as_csv(session("a"), session("b"), lineterminator="\n"),
            as_csv(session("a"), session("b")) + "\r\n\r\n",
            as_csv(session("a"), session("b"), quoting=csv.QUOTE_ALL),
            as_csv(session("a"), session("b"), columns=["containment", "messages", "session_id", "user_id"]),
        ],
        ids=lambda content: ascii(content[:12]),
    )
    async def test_harmless_differences_of_form(self, content: str, load: Import, database: Database) -> None:
        name = "chats.CSV" if "messages" in content.partition("\n")[0] and "{" not in content[:3] else "chats.jsonl"
        imported = await load(content, name)
        assert [fact.session_id for fact in await stored(database, imported)] == ["a", "b"]

    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    async def test_every_character_arrives(self, form: str, load: Import, database: Database) -> None:
        words = 'She said "no",\r\nthen, ""left"" ;\t señor 我的发票 🙂 \u2028\u0085\u000b\\n = , \'x\''
        given = session("a,\"b'\n", user_id="Zoë", bot_id=" ", messages=[{"role": "user", "text": words}])
        await load(lines(given) if form == "jsonl" else as_csv(given), f"chats.{form}")
        [found] = await payloads(database)
        assert found["messages"] == [{"role": "user", "text": words, "time": None}]
        assert (found["session_id"], found["user_id"], found["bot_id"]) == ("a,\"b'\n", "Zoë", " ")

    async def test_both_forms_of_one_session_are_stored_alike(self, load: Import, database: Database) -> None:
        timed = [{"role": "user", "text": "x", "time": "2026-03-02T10:00:00+02:00"}]
        sessions = [session("a", bot_id="b"), session("b", bot_id="b", messages=timed)]
        await load(lines(*sessions))
        await load(as_csv(*sessions), "chats.csv")
        first, second, *others = [await payloads(database)]
        del second, others
        assert first[0] == first[1]
        assert first[2] == first[3]

    async def test_the_first_time_in_a_session_is_its_start(self, load: Import, database: Database) -> None:
        messages = [
            {"role": "bot", "text": "Hi"},
            {"role": "user", "text": "x", "time": "2026-03-02T10:00:00+02:00"},
            {"role": "bot", "text": "y", "time": "2026-03-02T11:00:00+02:00"},
        ]
        timed, untimed = await stored(database, await load(lines(session("a", messages=messages), session("b"))))
        assert timed.started_at
        assert timed.started_at.isoformat() == "2026-03-02T08:00:00+00:00"
        assert untimed.started_at is None

    async def test_sessions_without_user_text_and_identical_ones_are_data(
        self, load: Import, database: Database
    ) -> None:
        silent = [{"role": "bot", "text": "Hello?"}, {"role": "user", "text": "  "}]
        same = [session("x")["messages"]] * 3
        content = lines(session("a", messages=silent), *(session(at, messages=same[at]) for at in range(3)))
        assert len(await stored(database, await load(content))) == 4

    async def test_a_file_of_one_session(self, load: Import) -> None:
        assert (await load(lines(session()))).sessions == 1


class TestIdempotence:
    async def test_the_same_content_is_known(self, load: Import, database: Database) -> None:
        content = lines(session("a"), session("b"))
        first, again = await load(content), await load(content, "renamed.jsonl")
        assert again == first.model_copy(update={"known": True})
        assert await rows(database) == (1, 2)

    async def test_other_content_is_another_dataset(self, load: Import, database: Database) -> None:
        first, other = await load(lines(session("a"))), await load(lines(session("a"), session("b")))
        assert first.dataset_id != other.dataset_id
        assert await rows(database) == (2, 3)

    async def test_what_is_left_out_belongs_to_the_identity(self, load: Import, database: Database) -> None:
        content = lines(session("a"))
        whole, lenient = await load(content), await load(content, skip_invalid=True)
        assert whole.dataset_id != lenient.dataset_id
        assert (await load(content, skip_invalid=True)).known

    async def test_another_workspace_has_its_own(self, load: Import, database: Database) -> None:
        content = lines(session("a"))
        mine, theirs = await load(content), await load(content, workspace="globex")
        assert (mine.dataset_id, theirs.known) == (theirs.dataset_id, False)
        assert await rows(database) == (2, 2)
        async with database.transaction() as tx:
            with pytest.raises(NotFound):
                await load_dataset(tx, "initech", mine.dataset_id)
            assert await session_facts(tx, "initech", mine.dataset_id) == []

    async def test_two_imports_of_one_file_at_once_store_it_once(self, load: Import, database: Database) -> None:
        content = lines(*(session(at) for at in range(1200)))
        done = await asyncio.gather(*(load(content) for _ in range(4)))
        assert sorted(imported.known for imported in done) == [False, True, True, True]
        assert {(imported.dataset_id, imported.sessions, imported.tokens) for imported in done} == {
            (done[0].dataset_id, 1200, done[0].tokens)
        }
        assert await rows(database) == (1, 1200)

    async def test_an_import_that_was_stopped_leaves_nothing_and_can_be_repeated(
        self, load: Import, database: Database
    ) -> None:
        content = lines(*(session(at) for at in range(1200)))

        def stop(read: int) -> None:
            if read >= 1000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await load(content, on_progress=stop)
        assert await rows(database) == (0, 0)
        assert (await load(content)).known is False


LONG = "x" * (MAX_LINE_CHARACTERS + 10)
GOOD = json.dumps(session("good"))
# The file's first line and its last are good; what is wrong with the one between them, in which field.
BAD_LINES: dict[str, tuple[str | bytes, str, str]] = {
    "not JSON": ("{", "", "is not JSON"),
    "two sessions on a line": (GOOD + GOOD, "", "is not JSON"),
    "a number that is none": (GOOD.replace('"u"', "NaN"), "", "NaN"),
    "a name that stands twice": ('{"session_id": "x", "session_id": "y"}', "", "stands twice"),
    "nested too deeply": ("[" * 100_000, "", "nested too deeply"),
    "not an object": ('["s"]', "", "valid dictionary"),
    "null": ("null", "", "valid dictionary"),
    "not UTF-8": (b'{"session_id": "\xff"}', "", "is not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "", "is not UTF-8"),
    "known session_id": (json.dumps(session("first")), "session_id", "stands on line 1 already"),
    "no session_id": (json.dumps({**session(), "session_id": None}), "session_id", "valid string"),
    "blank session_id": (json.dumps(session(" ")), "session_id", "is blank"),
    "no user_id": (json.dumps({k: v for k, v in session().items() if k != "user_id"}), "user_id", "required"),
    "no messages": (json.dumps(session(messages=[])), "messages", "at least 1"),
    "messages missing": (json.dumps({k: v for k, v in session().items() if k != "messages"}), "messages", "required"),
    "messages as text": (json.dumps(session(messages="hello")), "messages", "valid tuple"),
    "unknown containment": (json.dumps(session(containment="escalated")), "containment", "'selfService'"),
    "unknown role": (json.dumps(session(messages=[{"role": "system", "text": "x"}])), "messages.0.role", "'bot'"),
    "a message without text": (json.dumps(session(messages=[{"role": "user"}])), "messages.0.text", "required"),
    "NUL": (json.dumps(saying("a\0b")), "messages.0.text", "is not text"),
    "half a surrogate pair": (json.dumps(saying("a\ud800")), "messages.0.text", "is not text"),
    "a time without zone": (
        json.dumps(session(messages=[{"role": "user", "text": "x", "time": "2026-03-02 10:00"}])),
        "messages.0.time",
        "timezone",
    ),
    "a time beyond the calendar": (
        json.dumps(session(messages=[{"role": "user", "text": "x", "time": "0001-01-01T00:00:00+14:00"}])),
        "messages.0.time",
        "calendar",
    ),
    "another field": (json.dumps(session(topic="billing")), "topic", "not permitted"),
    "10 MB": (json.dumps(saying("x" * 10_000_000)), "", "longer than 5,000,000 characters"),
}


class TestBadLines:
    @pytest.mark.parametrize("name", BAD_LINES)
    async def test_a_bad_line_is_named_and_nothing_is_stored(self, name: str, load: Import, database: Database) -> None:
        bad, field, problem = BAD_LINES[name]
        content = lines(session("first")).encode() + as_bytes(bad) + b"\n" + lines(session("last")).encode()
        with pytest.raises(InvalidInput) as refused:
            await load(content)
        assert (refused.value.where, refused.value.field) == ("chats.jsonl: line 2", field)
        assert problem in refused.value.problem
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300
        assert await rows(database) == (0, 0)

    @pytest.mark.parametrize("name", BAD_LINES)
    async def test_or_is_left_out_and_listed(self, name: str, load: Import, database: Database) -> None:
        bad, field, problem = BAD_LINES[name]
        content = lines(session("first")).encode() + as_bytes(bad) + b"\n" + lines("", session("last")).encode()
        imported = await load(content, skip_invalid=True)
        [skipped] = imported.skipped
        assert (skipped.line, skipped.field) == (2, field)
        assert problem in skipped.problem
        assert [fact.session_id for fact in await stored(database, imported)] == ["first", "last"]

    async def test_a_late_bad_line_undoes_thousands(self, load: Import, database: Database) -> None:
        content = lines(*(session(at) for at in range(2500)), "{", *(session(at) for at in range(2500, 2600)))
        with pytest.raises(InvalidInput, match=r"^chats\.jsonl: line 2501: is not JSON"):
            await load(content)
        assert await rows(database) == (0, 0)

    async def test_all_bad_lines_are_listed_and_positions_stay_dense(self, load: Import, database: Database) -> None:
        bad = [
            session("a"),
            session(containment="x"),
            session("b"),
            "{",
            "",
            session("a"),
            session(user_id=""),
            session("c"),
        ]
        imported = await load(lines(*bad), skip_invalid=True)
        assert [(skipped.line, skipped.field) for skipped in imported.skipped] == [
            (2, "containment"),
            (4, ""),
            (6, "session_id"),
            (7, "user_id"),
        ]
        found = await stored(database, imported)
        assert [(fact.position, fact.session_id) for fact in found] == [(0, "a"), (1, "b"), (2, "c")]

    async def test_a_bad_session_does_not_take_its_id(self, load: Import, database: Database) -> None:
        imported = await load(lines(session("a", containment="x"), session("a")), skip_invalid=True)
        assert (imported.sessions, len(imported.skipped)) == (1, 1)

    async def test_a_duplicate_far_behind_is_found(self, load: Import, database: Database) -> None:
        with pytest.raises(InvalidInput, match="line 1202: session_id: stands on line 7 already"):
            await load(lines(*(session(at) for at in range(1, 1202)), session(7)))
        assert await rows(database) == (0, 0)

    @pytest.mark.parametrize("how", [{}, {"skip_invalid": True}])
    @pytest.mark.parametrize("content", ["", "\n\n  \n", "\ufeff"])
    async def test_an_empty_file_holds_no_session(
        self, content: str, how: dict[str, Any], load: Import, database: Database
    ) -> None:
        with pytest.raises(InvalidInput, match=r"^chats\.jsonl: holds no session$"):
            await load(content, **how)
        assert await rows(database) == (0, 0)

    async def test_a_file_of_bad_lines_alone_says_what_is_wrong_with_the_first(
        self, load: Import, database: Database
    ) -> None:
        with pytest.raises(InvalidInput, match=r"^chats\.jsonl: line 2: containment: .* \(none of 2 lines is valid\)$"):
            await load(lines("", session(containment="x"), "{"), skip_invalid=True)
        assert await rows(database) == (0, 0)

    @pytest.mark.parametrize("name", ["missing.jsonl", "."])
    async def test_a_file_that_cannot_be_read_is_named(self, name: str, database: Database, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="cannot be read"):
            await import_chats(database, "acme", tmp_path / name)


def as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


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
            "session_id;user_id;containment;messages",
            "Session_ID,user_id,containment,messages",
            '{"session_id": "a"}',
            "x" * 100_000,
        ],
        ids=lambda header: header[:30],
    )
    async def test_wrong_columns_are_named(self, header: str, load: Import, database: Database) -> None:
        with pytest.raises(InvalidInput) as refused:
            await load(f"{header}\na,b,c,d,e\n" if header else "", "chats.csv", skip_invalid=True)
        line = str(refused.value)
        assert line.startswith("chats.csv: columns must be session_id, user_id, bot_id, containment, messages; found ")
        assert len(line) < 400
        assert await rows(database) == (0, 0)

    async def test_a_table_without_rows_holds_no_session(self, load: Import) -> None:
        with pytest.raises(InvalidInput, match="holds no session"):
            await load(HEADER, "chats.csv")

    @pytest.mark.parametrize(
        ("row", "field", "problem"),
        [
            (f"b,u,,agent", "", "has 4 cells for 5 columns"),
            (f"b,u,,agent,{CELL},more", "", "has 6 cells for 5 columns"),
            ("b,u,,agent,hello", "messages", "is not JSON"),
            ("b,u,,agent,", "messages", "is not JSON"),
            ("b,u,,agent,[]", "messages", "at least 1"),
            (f"b,,,agent,{CELL}", "user_id", "is blank"),
            (f"b,u,,escalated,{CELL}", "containment", "'selfService'"),
            (f"a,u,,agent,{CELL}", "session_id", "stands on line 2 already"),
            (f"b,u\udcff,,agent,{CELL}", "user_id", "is not UTF-8"),
            (f"b,{'u' * 201},,agent,{CELL}", "user_id", "at most 200"),
            (f"b,{LONG},,agent,{CELL}", "", "longer than 5,000,000 characters"),
        ],
        ids=lambda value: value[:20],
    )
    async def test_a_bad_row_is_named_by_its_first_line_and_can_be_left_out(
        self, row: str, field: str, problem: str, load: Import, database: Database
    ) -> None:
        several = '"[\n{""role"": ""user"",\n""text"": ""x""}]"'
        made = f"{HEADER}a,u,,agent,{several}\n\n{row}\nc,u,,agent,{CELL}\n"
        content = made.encode(errors="surrogateescape")
        with pytest.raises(InvalidInput) as refused:
            await load(content, "chats.csv")
        assert (refused.value.where, refused.value.field) == ("chats.csv: line 6", field)
        assert problem in refused.value.problem
        assert await rows(database) == (0, 0)
        imported = await load(content, "chats.csv", skip_invalid=True)
        assert [(skipped.line, skipped.field) for skipped in imported.skipped] == [(6, field)]
        assert [fact.session_id for fact in await stored(database, imported)] == ["a", "c"]

    @pytest.mark.parametrize("row", ['b,u,,agent,"[{', 'b,u,,agent,"x"y'])
    async def test_a_quote_that_goes_astray_is_no_line_to_skip(
        self, row: str, load: Import, database: Database
    ) -> None:
        """All rows behind it would go with it."""
        made = f"{HEADER}a,u,,agent,{CELL}\n{row}\n" + "".join(f"{at},u,,agent,{CELL}\n" for at in range(50))
        with pytest.raises(InvalidInput, match=r"^chats\.csv: line 3: is not CSV: "):
            await load(made, "chats.csv", skip_invalid=True)
        assert await rows(database) == (0, 0)


class TestTokens:
    async def test_they_are_tiktokens_own(self, load: Import, database: Database) -> None:
        texts = [
            "My invoice is wrong.",
            "",
            " ",
            "señor 我的发票 🙂",
            "a" * 5000,
            "<|endoftext|>",
            "def f(x):\n\treturn x",
        ]
        imported = await load(
            lines(*(session(at, messages=[{"role": "bot", "text": text}] * 2) for at, text in enumerate(texts)))
        )
        encoding = tiktoken.get_encoding("o200k_base")
        expected = [2 * (len(encoding.encode(text, disallowed_special=())) + 4) for text in texts]
        assert [fact.tokens for fact in await stored(database, imported)] == expected
        assert imported.tokens == sum(expected)

    @pytest.mark.parametrize("unit", [" ", "a", "\n", "word ", "我", "🙂"])
    def test_a_very_long_text_is_counted_and_soon(self, unit: str) -> None:
        short, long = (count_tokens(unit * (size // len(unit))) for size in (100_000, 1_500_000))
        assert long == pytest.approx(15 * short, rel=0.02)

    def test_a_spoiled_cache_is_mended_without_the_network(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "restored afterwards")
        first = tokens._unpacked()
        assert first.is_relative_to(tmp_path)
        whole = first.read_bytes()
        first.write_bytes(whole[:1000])
        assert tokens._unpacked().read_bytes() == whole
        assert [path.name for path in first.parent.iterdir()] == [tokens.CACHED_NAME]
        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        assert tokens._encoding.__wrapped__().encode_ordinary("hello") == [24912]


async def test_what_was_left_out_is_shown_line_by_line(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Face:
        async def import_chats(self, path: Path, **how: Any) -> Imported:
            return await import_chats(database, "acme", path, **how)

    path = tmp_path / "chats.jsonl"
    path.write_text(lines(session("a"), "{", session("b", containment="x")))
    await read_in(Face(), path, skip_invalid=True)  # pyright: ignore[reportArgumentType]
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("skipped chats.jsonl: line 2: is not JSON")
    assert shown[1].startswith("skipped chats.jsonl: line 3: containment: Input should be")
    assert shown[2].startswith("1 sessions imported")


def test_the_limits_of_this_page_are_the_modules_own() -> None:
    assert list(importing.CSV_COLUMNS) == COLUMNS
