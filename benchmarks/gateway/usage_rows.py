"""A callback of LiteLLM: it inserts one row for each reply, with the cost that LiteLLM computed.

It runs in the gateway's environment and does not import Parley.
"""

import os
from decimal import Decimal
from typing import Any

import psycopg
from litellm.integrations.custom_logger import CustomLogger  # pyright: ignore[reportMissingImports]


class UsageRows(CustomLogger):
    def __init__(self) -> None:
        super().__init__()
        self._connection: psycopg.AsyncConnection | None = None

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(os.environ["BENCH_ROWS_DATABASE"], autocommit=True)
        cost = Decimal(str(kwargs.get("response_cost") or 0))
        await self._connection.execute("INSERT INTO gateway_usage VALUES (%s, %s)", (str(response_obj.id), cost))


usage_rows = UsageRows()
