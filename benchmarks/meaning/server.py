"""Serves a labeller as OpenAI's chat completions, on loopback."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.meaning.labeller import Labeller

BYTES_PER_TOKEN = 4


@asynccontextmanager
async def serving(labeller: Labeller) -> AsyncIterator[str]:
    """The base URL of the labeller, which answers during the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_application(labeller), log_level="warning", access_log=False))
    running = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await running


def _application(labeller: Labeller) -> Starlette:
    numbers = count(1)
    one_at_a_time = asyncio.Lock()

    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        sent = [message["content"] for message in body["messages"]]
        async with one_at_a_time:
            text = json.dumps(await asyncio.to_thread(labeller.answer, *sent), ensure_ascii=False)
        prompt, made = _tokens("".join(sent)), _tokens(text)
        return JSONResponse(
            {
                "id": f"chatcmpl-{next(numbers)}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": body["model"],
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}},
                ],
                "usage": {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made},
            }
        )

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": []})

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"]), Route("/v1/models", models)])


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
