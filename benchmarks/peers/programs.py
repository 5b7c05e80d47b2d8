"""The peers: a script without a library, DBOS and Curator send the same requests, eight at a time.

`python programs.py NAME WORK REPLIES SIMULATOR DATABASE STATISTICS`; see `benchmarks.peers`. A program that is started
again with the same arguments continues. It runs in an environment without Parley, so it imports nothing of it.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import openai

MODEL = "gpt-4o-mini"
STREAMS = 8


@dataclass(frozen=True)
class Asked:
    """One request for the labels of one session. `key` is that session's."""

    key: str
    messages: list[Any]
    max_tokens: int
    temperature: float
    response_format: Any


@dataclass(frozen=True)
class Place:
    """Where a program finds its work and leaves its replies."""

    work: list[Asked]
    replies: Path
    simulator: str
    database: str
    statistics: Path

    def provider(self) -> openai.AsyncOpenAI:
        """The vendor's SDK, with the simulator as the vendor."""
        return openai.AsyncOpenAI(api_key="none", base_url=f"{self.simulator}/openai/v1", max_retries=2)

    def stored(self) -> set[str]:
        """The keys of the replies that a run before has left."""
        if not self.replies.exists():
            return set()
        return {json.loads(line)["key"] for line in self.replies.read_text().splitlines()}

    def store(self, replies: dict[str, str]) -> None:
        """Append the replies by key."""
        with self.replies.open("a") as file:
            file.writelines(json.dumps({"key": key, "reply": reply}) + "\n" for key, reply in replies.items())

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Leave the seconds of the block, and those of CPU of this process."""
        began, spent = time.monotonic(), time.process_time()
        yield
        used = {"seconds": time.monotonic() - began, "cpu": time.process_time() - spent}
        self.statistics.write_text(json.dumps(used))


async def ask(sdk: openai.AsyncOpenAI, asked: Asked) -> str:
    """The text of the reply."""
    reply = await sdk.chat.completions.create(
        model=MODEL,
        messages=asked.messages,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        response_format=asked.response_format,
    )
    return reply.choices[0].message.content or ""


def script(place: Place) -> None:
    """What one writes first: a line of a file for each reply, and what has a line is not asked again."""

    async def run() -> None:
        stored = place.stored()
        remaining = iter([asked for asked in place.work if asked.key not in stored])
        async with place.provider() as sdk:

            async def stream() -> None:
                for asked in remaining:
                    place.store({asked.key: await ask(sdk, asked)})

            await asyncio.gather(*(stream() for _ in range(STREAMS)))

    with place.measured():
        asyncio.run(run())


def dbos(place: Place) -> None:
    """A durable workflow of one step for each request, with the replies in PostgreSQL."""
    from dbos import DBOS, SetWorkflowID  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    DBOS(config={"name": "peers", "system_database_url": place.database, "run_admin_server": False})
    sdk = place.provider()

    @DBOS.step()
    async def answer(asked: dict[str, Any]) -> str:
        return await ask(sdk, Asked(**asked))

    @DBOS.workflow()
    async def label(asked: dict[str, Any]) -> str:
        return await answer(asked)

    async def run() -> None:
        remaining, replies = iter(place.work), dict[str, str]()

        async def stream() -> None:
            for asked in remaining:
                # A workflow that has ended returns its reply again; one that was interrupted is continued by `launch`.
                with SetWorkflowID(asked.key):
                    replies[asked.key] = await label(asdict(asked))

        DBOS.launch()
        with place.measured():
            await asyncio.gather(*(stream() for _ in range(STREAMS)))
            place.store(replies)
        DBOS.destroy()

    asyncio.run(run())


def curator(place: Place) -> None:
    """One dataset, with the replies in Curator's cache."""
    # Curator counts tokens with a vocabulary that it would download. LiteLLM, which it depends on, carries it.
    os.environ["TIKTOKEN_CACHE_DIR"] = str(files("litellm") / "litellm_core_utils" / "tokenizers")
    from bespokelabs import curator as library  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    from datasets import Dataset  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    class Labeller(library.LLM):
        def prompt(self, input: dict[str, Any]) -> list[dict[str, str]]:
            return json.loads(input["messages"])

        def parse(self, input: dict[str, Any], response: str) -> dict[str, str]:
            return {"key": input["key"], "reply": response}

    first = place.work[0]
    labeller = Labeller(
        model_name=MODEL,
        backend="openai",
        generation_params={
            "max_tokens": first.max_tokens,
            "temperature": first.temperature,
            "response_format": first.response_format,
        },
        backend_params={
            "base_url": f"{place.simulator}/openai/v1",
            "max_concurrent_requests": STREAMS,
            "max_requests_per_minute": 1_000_000,
            "max_tokens_per_minute": 1_000_000_000,
        },
    )
    with place.measured():
        rows = [{"key": asked.key, "messages": json.dumps(asked.messages)} for asked in place.work]
        answered = labeller(Dataset.from_list(rows), working_dir=str(place.replies.parent / "curator"))
        place.store({row["key"]: row["reply"] for row in answered.dataset})


PROGRAMS: dict[str, Callable[[Place], None]] = {"script": script, "Curator": curator, "DBOS": dbos}


def main(name: str, work: str, replies: str, simulator: str, database: str, statistics: str) -> None:
    asked = [Asked(**json.loads(line)) for line in Path(work).read_text().splitlines()]
    PROGRAMS[name](Place(asked, Path(replies), simulator, database, Path(statistics)))


if __name__ == "__main__":
    main(*sys.argv[1:])
