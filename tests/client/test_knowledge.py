"""The knowledge base through its client: documents of every form, changes, the search, and what is refused."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text as sql
from temporalio.client import Client as TemporalClient

from parley import AddOutcome, Backend, DocumentKind, InvalidInput, NotFound
from parley.client import knowledge as knowledge_module
from parley.client.knowledge import Knowledge, files_of
from parley.domain.knowledge import chunks_of, read_document
from parley.domain.knowledge.documents import kind_of
from parley.settings import Settings
from parley.storage import knowledge as storage
from parley.storage.database import Database
from tests.parts import until

HOURS = """# Visiting the pool

Some words about the pool.

## Opening hours

The pool opens at 6 in the morning and closes at 22. On Sundays it stays closed.

## Prices

A ticket costs 7 dollars. Children under six swim for free.
"""
REFUNDS = "Refunds\n\nA ticket that was not used is refunded within 30 days. Ask at the desk and bring the receipt."


Base = Callable[..., Knowledge]


@pytest.fixture
def base(temporal: TemporalClient, database: Database, settings: Settings) -> Base:
    def made(workspace_id: str = "acme", *, vectors: str = "auto") -> Knowledge:
        changed = settings.model_copy(update={"memory_vectors": vectors})
        return Backend(temporal, database, changed).client(workspace_id).knowledge

    return made


async def found(knowledge: Knowledge, text: str, limit: int = 5) -> list[tuple[str, str]]:
    return [(one.name, one.heading.rpartition(" › ")[2]) for one in await knowledge.search(text, limit=limit)]


async def test_a_document_is_found_by_its_words_and_by_its_meaning(base: Base):
    knowledge = base()
    added = await knowledge.add(HOURS, name="pool.md")
    assert (added.outcome, added.document.title) == (AddOutcome.ADDED, "Visiting the pool")
    assert (added.document.kind, added.document.chunks, added.document.vectors) == (DocumentKind.MARKDOWN, 3, 3)
    await knowledge.add(REFUNDS, name="refunds.txt")
    assert (await found(knowledge, "When is the pool closed on Sundays?"))[0] == ("pool.md", "Opening hours")
    assert (await found(knowledge, "Can I get my money back?"))[0] == ("refunds.txt", "")
    [first, *_] = await knowledge.search("What does a ticket cost?")
    assert (first.title, first.heading, first.chunk) == ("Visiting the pool", "Visiting the pool › Prices", 3)
    assert "7 dollars" in first.text


async def test_nothing_is_found_for_what_no_document_is_about(base: Base):
    knowledge = base()
    assert await knowledge.search("anything") == ()
    await knowledge.add(HOURS, name="pool.md")
    assert await knowledge.search("How do I compile a Rust crate for Windows?") == ()
    assert await knowledge.search("🙂🙂") == ()


async def test_adding_the_same_again_changes_nothing_and_a_changed_one_replaces_it(base: Base):
    knowledge = base()
    first = await knowledge.add(HOURS, name="pool.md")
    again = await knowledge.add(HOURS, name="pool.md")
    assert (again.outcome, again.document) == (AddOutcome.UNCHANGED, first.document)
    changed = await knowledge.add(HOURS.replace("7 dollars", "9 dollars"), name="pool.md")
    assert changed.outcome is AddOutcome.CHANGED
    assert changed.document.id == first.document.id
    assert changed.document.created_at == first.document.created_at
    [price, *_] = await knowledge.search("What does a ticket cost?")
    assert "9 dollars" in price.text
    assert len(await knowledge.list()) == 1


async def test_concurrent_additions_of_one_document_add_it_once(base: Base):
    made = await asyncio.gather(*(base().add(HOURS, name="pool.md") for _ in range(4)))
    assert sorted(one.outcome for one in made) == ["added", "unchanged", "unchanged", "unchanged"]
    assert len(await base().list()) == 1


async def test_without_vectors_words_decide_and_a_later_addition_computes_the_vectors(base: Base):
    by_words = base(vectors="off")
    assert not by_words.has_vectors
    assert (await by_words.add(HOURS, name="pool.md")).document.vectors == 0
    assert (await found(by_words, "opening on Sundays"))[0] == ("pool.md", "Opening hours")
    assert await found(by_words, "Can my daughter get in gratis?") == []
    assert (await base().add(HOURS, name="pool.md")).outcome is AddOutcome.CHANGED
    assert (await base().list())[0].vectors == 3
    # A process without vectors does not remove those that another one has computed.
    assert (await by_words.add(HOURS, name="pool.md")).outcome is AddOutcome.UNCHANGED


async def test_another_workspace_finds_and_removes_nothing(base: Base):
    added = await base().add(HOURS, name="pool.md")
    other = base("globex")
    assert await other.search("When is the pool closed?") == ()
    assert await other.list() == ()
    for key in (added.document.id, "pool.md"):
        with pytest.raises(NotFound):
            await other.remove(key)
    assert (await other.add(HOURS, name="pool.md")).document.id != added.document.id
    await other.remove("pool.md")
    assert len(await base().list()) == 1


async def test_a_removed_document_is_not_found(base: Base):
    knowledge = base()
    await knowledge.add(HOURS, name="pool.md")
    refunds = await knowledge.add(REFUNDS, name="refunds.txt")
    await knowledge.remove("pool.md")
    await knowledge.remove(refunds.document.id)
    assert await knowledge.list() == ()
    assert await knowledge.search("When is the pool closed?") == ()
    with pytest.raises(NotFound, match=r"no document 'pool\.md'"):
        await knowledge.remove("pool.md")


async def test_a_document_that_is_removed_while_it_is_added_again_leaves_no_passages(base: Base, database: Database):
    knowledge = base(vectors="off")
    added = await knowledge.add(HOURS, name="pool.md")
    document = read_document(b"The pool opens at 7.", DocumentKind.TEXT)
    async with database.transaction() as tx:
        await storage.put(tx, "acme", "pool.md", "changed", document, chunks_of(document))
        removing = asyncio.create_task(knowledge.remove(added.document.id))
        await until(lambda: is_waiting(database))
    await removing
    assert await knowledge.list() == ()
    async with database.reads() as tx:
        assert await storage.rank_by_words(tx, "acme", "pool") == []


async def is_waiting(database: Database) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with database.reads() as tx:
        return (await tx.execute(sql(query))).first() is not None


async def test_the_last_words_of_a_long_text_are_searched_for(base: Base, database: Database):
    await base(vectors="off").add("The zebra sleeps.", name="zebra.txt")
    await base(vectors="off").add("An aardvark sleeps.", name="aardvark.txt")
    words = " ".join(f"b{number}" for number in range(storage.MOST_LEXEMES))
    async with database.reads() as tx:
        for asked in (f"Aardvark {words} zebra", f"Aardvark zebra {words} zebra"):
            hits = await storage.rank_by_words(tx, "acme", asked)
            assert [hit.key[0] for hit in hits] == [storage.document_id("acme", "zebra.txt")]


PAGE = """<!DOCTYPE html><html><head><title>The &amp; garden</title><style>p {color: red}</style>
<script>document.write("tulips cost 99 dollars")</script></head><body>
<nav><a href="/">Home</a></nav><h1>Garden</h1><h2>Roses</h2><p>Roses need water twice a week,
<b>in the evening</b>.</p><!-- a comment about orchids --><table><tr><th>plant</th><th>price</th></tr>
<tr><td>rose</td><td>4 dollars</td></tr></table><template>hidden lilies</template></body></html>"""


async def test_html_is_read_as_it_is_shown(base: Base, database: Database):
    knowledge = base()
    added = await knowledge.add(PAGE, name="garden.html")
    assert (added.document.title, added.document.kind) == ("The & garden", DocumentKind.HTML)
    [roses, *_] = await knowledge.search("How often do roses need water?")
    assert roses.heading == "Garden › Roses"
    assert "Roses need water twice a week, in the evening." in roses.text
    assert "rose | 4 dollars" in roses.text
    async with database.reads() as tx:
        for hidden in ("tulips", "orchids", "lilies", "red"):
            assert await storage.rank_by_words(tx, "acme", hidden) == []


def read(content: str | bytes, kind: DocumentKind) -> list[tuple[tuple[str, ...], str]]:
    """The headings and the text of each section. Blanks and line breaks are one blank."""
    data = content.encode() if isinstance(content, str) else content
    return [(section.headings, " ".join(section.text.split())) for section in read_document(data, kind).sections]


@pytest.mark.parametrize(
    ("page", "headings", "text"),
    [
        ("<h1>Pool</h1><h2>Hours<p>From 6<p>To 22", ("Pool", "Hours"), "From 6 To 22"),
        ("<h2>Hours<h3>Sundays</h3>Closed", ("Hours", "Sundays"), "Closed"),
        ("<h2>Hours</h3>From 6", ("Hours",), "From 6"),
        ("<tr><h2>Hours<td>From 6", ("Hours",), "| From 6"),
        ("<p>Pool<h2>From 6<br>to 22", (), "Pool From 6 to 22"),
        # These are closed, and have elements that begin a line.
        ("<h2>Hours of<br>the pool</h2>From 6", ("Hours of the pool",), "From 6"),
        ("<h2>\n<div>Hours</div></h2>From 6", ("Hours",), "From 6"),
    ],
)
def test_a_heading_of_html_that_is_not_closed_keeps_the_text_below_it(page: str, headings: tuple[str, ...], text: str):
    assert read(page, DocumentKind.HTML) == [(headings, text)]


@pytest.mark.parametrize(("page", "kind"), [("<h2>{}", DocumentKind.HTML), ("## {}", DocumentKind.MARKDOWN)])
def test_the_text_of_a_heading_that_is_too_long_is_kept(page: str, kind: DocumentKind):
    long = "A long text. " * 30 + "Its end."
    [(headings, text)] = read(page.format(long) + "\n\n<p>More", kind)
    assert headings[0].startswith("A long text.")
    assert "Its end." in text


@pytest.mark.parametrize(
    "front_matter",
    [
        "title: Pool\n",
        "title: Pool\ntags:\n- water\n- sport\n# a remark\n\nabstract: |\n  Some words\n",
        "og:title: Pool\n# a remark\nvalid-from: 2024\nempty:\nsize: [\n  1\n]\n",
    ],
)
@pytest.mark.parametrize("end", ["---\n", "...\n"])
def test_front_matter_of_markdown_is_left_out(front_matter: str, end: str):
    assert read(f"---\n{front_matter}{end}# Pool\n\nOpen.", DocumentKind.MARKDOWN) == [(("Pool",), "Open.")]


@pytest.mark.parametrize(
    "text",
    [
        "---\n# Pool\nHours: We open at 6.\n---\nMore\n",
        "---\nWe open at 6.\n\n---\nMore\n",
        "---\n\n# Pool\n\nWe open at 6.\n\n---\n",
        "---\nNote: see\n\nWe open at 6.\n\n---\n",
    ],
)
def test_text_below_a_rule_at_the_beginning_of_markdown_is_kept(text: str):
    assert "We open at 6." in str(read(text, DocumentKind.MARKDOWN))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("end", "kind"), [("<html>", DocumentKind.HTML), ("A text", DocumentKind.MARKDOWN)])
def test_comments_at_the_beginning_do_not_slow_the_recognition_of_html(end: str, kind: DocumentKind):
    assert kind_of("page", ("<!-- > -->" * 190 + end).encode()) is kind


@pytest.mark.timeout(20)
def test_a_long_heading_of_markdown_is_read_quickly():
    document = read_document(f"# {'# ' * 200_000}x #\n\nA text".encode(), DocumentKind.MARKDOWN)
    assert document.title.startswith("# # ")
    assert document.sections[0].text.endswith("A text")


def pdf(*pages: str) -> bytes:
    """A small PDF with a line of text on each page."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 200] /Contents {5 + 2 * at} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    body, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{one}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}".encode()


async def test_a_pdf_is_read_page_by_page(base: Base):
    knowledge = base()
    added = await knowledge.add(pdf("The warranty lasts two years.", "Batteries are not covered."), name="warranty.pdf")
    assert (added.document.kind, added.document.chunks) == (DocumentKind.PDF, 2)
    [batteries, *_] = await knowledge.search("Are batteries covered?")
    assert (batteries.heading, batteries.text) == ("page 2", "Batteries are not covered.")


async def test_characters_of_a_pdf_that_postgresql_cannot_store_are_replaced(base: Base):
    knowledge = base(vectors="off")
    added = await knowledge.add(pdf("The warranty lasts\\000 two years."), name="warranty.pdf")
    assert added.document.chunks == 1
    [warranty] = await knowledge.search("warranty")
    assert warranty.text == "The warranty lasts\ufffd two years."
    document = read_document(b"", DocumentKind.PDF, ("Two \ud800years",))
    assert document.sections[0].text == "Two \ufffdyears"


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("iso-8859-1", "cp1252", "“Öffnung” – 7 €"),
        ("Latin-1", "cp1252", "“Öffnung” – 7 €"),
        ("us-ascii", "cp1252", "“Öffnung” – 7 €"),
        ("iso-8859-9", "cp1254", "“Açılış” – 7 €"),
        ("iso-8859-11", "cp874", "“สระว่ายน้ำ” – 7 €"),
        ("gb2312", "gb18030", "朱镕基 — 7 €"),
        ("GBK", "gb18030", "营业时间 㐂"),
        ("shift_jis", "cp932", "①営業時間～髙"),
        ("euc-kr", "cp949", "똠방각하"),
        ("iso-8859-2", "iso-8859-2", "Žluťoučký kůň"),
        ("koi8-r", "koi8-r", "Бассейн"),
        ("iso-8859-1", "utf-8-sig", "“Öffnung” – 7 €"),
        ("iso-8859-1", "utf-16", "“Öffnung” – 7 €"),
    ],
)
def test_the_encoding_that_html_declares_is_what_browsers_read(label: str, codec: str, text: str):
    page = f'<html><head><meta charset="{label}"></head><body>{text}</body></html>'
    assert read(page.encode(codec), DocumentKind.HTML) == [((), text)]


def test_a_byte_without_a_character_in_western_html_is_replaced():
    page = b'<meta charset="iso-8859-1"><p>a\x81b \x93c\x94'
    assert read(page, DocumentKind.HTML) == [((), "a\ufffdb “c”")]


@pytest.mark.parametrize("label", ["iso-8859-99", "utf-8"])
def test_html_that_does_not_have_its_encoding_is_refused(label: str):
    with pytest.raises(InvalidInput, match="save it as UTF-8"):
        read(f'<meta charset="{label}"><p>'.encode() + b"a\x81", DocumentKind.HTML)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("broken.pdf", b"%PDF-1.7\nnothing", "cannot be read"),
        ("no.pdf", b"only text", "is not a PDF"),
        ("scan.pdf", pdf(""), "has no text: a scanned PDF"),
        ("many.pdf", pdf(*["page"] * 4), "has 4 pages; at most 3"),
        ("image.png", b"\x89PNG\r\n\x1a\n\x00\x00", "is not text, Markdown, HTML or PDF"),
        ("latin.txt", "Öffnungszeiten".encode("latin-1"), "save it as UTF-8"),
        ("zero.txt", b"a\x00b", "NUL"),
        ("blank.md", "# Title\n\n \u200b\n", "has no text"),
        ("script.html", "<script>alert(1)</script>", "has no text"),
        ("big.txt", "x" * 2001, "has 2,001 bytes; at most 2,000"),
    ],
)
async def test_a_bad_file_is_refused_with_a_helpful_line(
    name: str, content: str | bytes, problem: str, base: Base, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(knowledge_module, "MOST_BYTES", 2000)
    monkeypatch.setattr(knowledge_module, "MOST_PAGES", 3)
    with pytest.raises(InvalidInput, match=problem) as caught:
        await base().add(content, name=name)
    assert str(caught.value).startswith(f"{name}: ")
    assert await base().list() == ()


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 501])
async def test_a_bad_name_is_refused(name: str, base: Base):
    with pytest.raises(InvalidInput, match="name"):
        await base().add("text", name=name)


@pytest.mark.parametrize(
    ("text", "question", "nothing"),
    [
        ("営業時間は午前六時から午後十時までです。日曜日は休みです。", "営業時間", "料金"),
        ("สระว่ายน้ำเปิดตั้งแต่หกโมงเช้า", "สระว่ายน้ำ", "ราคา"),
        ("Бассейн открыт с шести утра до десяти вечера.", "бассейн открыт", "цена"),
        ("يفتح المسبح في السادسة صباحا", "يفتح المسبح", "السعر"),
        ("पूल सुबह छह बजे खुलता है", "पूल सुबह", "कीमत"),
        ("Das Schwimmbad öffnet um sechs Uhr.", "öffnet Schwimmbad", "Gebühr"),
    ],
)
async def test_any_script_is_found_by_its_words(text: str, question: str, nothing: str, base: Base):
    knowledge = base(vectors="off")
    await knowledge.add(text, name="pool.txt")
    assert await found(knowledge, question) == [("pool.txt", "")]
    assert await found(knowledge, nothing) == []


@pytest.mark.parametrize("asked", ["' | a & !b:* <-> \\", "'; DROP TABLE knowledge_chunks; --", "%_\\", "a" * 100_000])
async def test_a_question_is_never_a_query(asked: str, base: Base):
    knowledge = base(vectors="off")
    await knowledge.add(HOURS, name="pool.md")
    assert await knowledge.search(asked) == ()
    assert len(await knowledge.list()) == 1


async def test_a_long_document_is_cut_into_passages_that_keep_their_headings(base: Base):
    sections = [f"## Part {number}\n\n" + f"Sentence about topic{number}. " * 60 for number in range(1, 6)]
    knowledge = base(vectors="off")
    added = await knowledge.add("# Book\n\n" + "\n\n".join(sections), name="book.md")
    assert added.document.chunks > 5
    hits = await knowledge.search("topic4", limit=50)
    assert {hit.heading for hit in hits} == {"Book › Part 4"}
    assert all(len(hit.text) <= 900 for hit in hits)


async def test_progress_is_reported(base: Base):
    steps: list[tuple[int, int]] = []
    text = "\n\n".join(f"# Part {number}\n\nSome text." for number in range(40))
    await base().add(text, name="parts.md", on_progress=lambda done, of: steps.append((done, of)))
    assert steps == [(32, 40), (40, 40)]


async def test_files_of_a_directory_are_found_without_hidden_ones_and_links(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.md", "a.TXT", "sub/c.html", ".hidden.md", ".git/d.md", "image.png"):
        (tmp_path / name).write_text("text")
    (tmp_path / "link.md").symlink_to(tmp_path / "b.md")
    assert [str(path.relative_to(tmp_path)) for path in files_of(tmp_path)] == ["a.TXT", "b.md", "sub/c.html"]
    assert files_of(tmp_path / "image.png") == [tmp_path / "image.png"]
    with pytest.raises(InvalidInput, match="does not exist"):
        files_of(tmp_path / "none")
