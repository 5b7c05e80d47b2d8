"""The knowledge base's search on labelled questions: this project's own pages, by words, by vectors, and by both.

A question is answered by a passage with the words in its label. Some questions have the words of their page, some are
in other words. The rest is answered by none of the pages: what is found for them is a false answer.
"""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.options import Figures, Options
from benchmarks.stack import running
from parley.client.knowledge import PASSAGE_TOKENS, files_of
from parley.domain.knowledge import KnowledgePassage, chunks_of, read_document
from parley.domain.knowledge.documents import kind_of
from parley.domain.knowledge.ranking import ChunkKey, fused
from parley.embedder import process_embedder
from parley.storage import knowledge
from parley.storage.database import Database

DOCS = Path(__file__).resolve().parent.parent / "docs"
WORKSPACE = "bench"
FOUND = 4


class Question(NamedTuple):
    """What is asked, the page that answers it, and words of the passage that does."""

    text: str
    page: str
    label: str


IN_ITS_WORDS = (
    Question("How is relevance weighted against recency when memories are recalled?", "memory.md", "0.7 × relevance"),
    Question("What does parley memory forget remove?", "memory.md", "removes the content of memories"),
    Question("Which predicates have one value at a time?", "memory.md", "has_favorite_color"),
    Question("How long does a turn wait for its vector?", "memory.md", "at most 0.15 s"),
    Question("Which scopes does a key of the gateway have?", "gateway.md", "asks for answers and vectors"),
    Question("How many requests a minute may a key send?", "gateway.md", "--requests-per-minute"),
    Question("How soon is a revoked key refused?", "gateway.md", "revoked key is refused"),
    Question("What is the quality_sample of an action?", "operations.md", "quality_sample"),
    Question("What happens when PostgreSQL is read-only after a failover?", "operations.md", "after a failover"),
    Question("What does the ledger audit check daily?", "operations.md", "parley ledger audit"),
    Question("Which worker roles are there?", "architecture.md", "worker role"),
    Question("How is a claim committed before a provider is called?", "architecture.md", "claim is committed"),
    Question("What does follow of a conversation do?", "conversation.md", "follow(turn_id"),
    Question("What is the method context for?", "conversation.md", "context()"),
)
IN_OTHER_WORDS = (
    Question("Can a person have what the assistant knows about them deleted?", "memory.md", "content of memories"),
    Question("Is the model that compares meanings run on my own machine?", "memory.md", "MiniLM"),
    Question("My database lacks the extension for embeddings, what now?", "memory.md", "CREATE EXTENSION vector"),
    Question("What if someone steals the password of my program?", "gateway.md", "parley keys revoke"),
    Question("How do I limit what a client app is allowed to do?", "gateway.md", "No scope includes another"),
    Question("Why is a slow password hash not used?", "gateway.md", "cannot be guessed"),
    Question("Does it grade how good the replies were?", "operations.md", "is graded from 0 to 1"),
    Question(
        "Which component decides what is retried after a crash?", "architecture.md", "what runs again after a crash"
    ),
    Question("Who guarantees that users never pay twice?", "architecture.md", "the first settlement wins"),
    Question("Can two turns be answered simultaneously?", "conversation.md", "in their order"),
)
UNANSWERED = (
    "What is the capital of Mongolia?",
    "How do I prune an apple tree in winter?",
    "Which vaccines does a puppy need?",
    "Who won the chess world championship in 1972?",
    "How long must I boil an egg?",
    "What is the boiling point of ethanol?",
    "Is the museum of modern art open on Mondays?",
    "How do I replace the chain of my bicycle?",
    "Which spices belong into a curry?",
    "What does the word serendipity mean?",
    "When does the last train to Lyon leave?",
    "How tall is the Eiffel Tower?",
)


async def measure(options: Options) -> Figures:  # noqa: ARG001 - the questions are the load
    async with running(worker=None) as bench:
        database = Database(SecretStr(bench.addresses.database_url))
        passages = await _add_pages(database)
        figures: dict[str, Any] = {"load": {"pages": len(files_of(DOCS)), "passages": passages}}
        for name, questions in (("in their words", IN_ITS_WORDS), ("in other words", IN_OTHER_WORDS)):
            figures[f"questions {name}"] = await _ask(database, questions)
        figures["questions that no page answers"] = await _ask_unanswered(database)
        await database.close()
    return figures


async def _add_pages(database: Database) -> int:
    embedder, count = process_embedder(), 0
    for path in files_of(DOCS):
        content = path.read_bytes()
        document = read_document(content, kind_of(path.name, content))
        chunks = chunks_of(document)
        texts = [f"{chunk.heading or document.title}\n{chunk.text}" for chunk in chunks]
        vectors = (embedder.name, await embedder.vectors(texts, most_tokens=PASSAGE_TOKENS))
        async with database.transaction() as tx:
            await knowledge.put(tx, WORKSPACE, path.relative_to(DOCS).as_posix(), "", document, chunks, vectors)
        count += len(chunks)
    return count


async def _found(database: Database, text: str, *, limit: int = FOUND) -> dict[str, Sequence[KnowledgePassage]]:
    """The best passages of each ranking, without what each leaves out as unrelated; and of the search itself."""
    embedder = process_embedder()
    [vector] = await embedder.vectors([text])
    async with database.reads() as tx:
        words = await knowledge.rank_by_words(tx, WORKSPACE, text)
        vectors = await knowledge.rank_by_vectors(tx, WORKSPACE, vector, embedder.name)
        alone = {"words": [hit.key for hit in words], "vectors": [*vectors]}
        found = {name: await _passages(tx, keys[:limit]) for name, keys in alone.items()}
        found["both"] = await knowledge.passages(tx, WORKSPACE, dict(fused(words, vectors, limit)))
    return found


async def _passages(tx: AsyncSession, keys: Sequence[ChunkKey]) -> Sequence[KnowledgePassage]:
    return await knowledge.passages(tx, WORKSPACE, dict.fromkeys(keys, 0.0))


async def _ask(database: Database, questions: Sequence[Question]) -> dict[str, Any]:
    first, among = Counter[str](words=0, vectors=0, both=0), Counter[str](words=0, vectors=0, both=0)
    milliseconds: list[float] = []
    for question in questions:
        for name, passages in (await _found(database, question.text)).items():
            right = [one.name == question.page and question.label in " ".join(one.text.split()) for one in passages]
            first[name] += right[:1] == [True]
            among[name] += any(right)
        began = time.perf_counter()
        [vector] = await process_embedder().vectors([question.text])
        async with database.reads() as tx:
            await knowledge.search(tx, WORKSPACE, question.text, vector, FOUND, model=process_embedder().name)
        milliseconds.append((time.perf_counter() - began) * 1000)
    shares = {f"hit@1 by {name}": count / len(questions) for name, count in first.items()}
    shares |= {f"hit@{FOUND} by {name}": count / len(questions) for name, count in among.items()}
    return {"questions": len(questions), **shares, "milliseconds of a search, median": median(milliseconds)}


async def _ask_unanswered(database: Database) -> dict[str, Any]:
    found = [bool((await _found(database, text))["both"]) for text in UNANSWERED]
    return {"questions": len(UNANSWERED), "answered falsely": sum(found) / len(found)}
