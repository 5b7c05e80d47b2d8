"""The actors' sessions at PostgreSQL, and the turnstile that orders their round trips and injects faults."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg.pq import PipelineStatus
from pydantic import SecretStr
from sqlalchemy import event

from parley.storage.database import Database
from parley.storage.driver import Connection
from tests.ledger_checker.schedules import Fault, Turn

# How long a round trip may take before the turnstile asks whether it waits for a lock. It affects the time only.
PATIENT_SECONDS = 0.005
KILL_MILLISECONDS = 10_000
WAITING = "SELECT pid FROM pg_locks WHERE NOT granted"


class TurnConnection(Connection):
    """A connection of the product that waits for its session's turn before each round trip."""

    session: "Session | None" = None
    is_committing = False

    @classmethod
    async def open_for(cls, session: "Session", conninfo: str = "", **options: Any) -> "TurnConnection":
        connection: Any = await cls.open(conninfo, **options)
        session.connection = connection
        connection.session = session
        return connection

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        # In a pipeline, the statements travel with the first one.
        if self.session and self.pgconn.pipeline_status == PipelineStatus.OFF:
            await self.session.turn()
            if self.is_committing and self.session.suffers(Fault.COMMIT_LOST):
                await self._break()
        return await super().wait(gen, *args, **options)

    async def commit(self) -> None:
        self.is_committing = True
        try:
            await super().commit()
        finally:
            self.is_committing = False
        if self.session and self.session.suffers(Fault.ANSWER_LOST):
            await self._break()

    async def _break(self) -> None:
        await self.close()
        raise psycopg.OperationalError("the connection is lost")


class Session:
    """One actor's database, with one connection at a time."""

    def __init__(self, url: str) -> None:
        self.database = Database(SecretStr(url), pool_size=1)
        self.connection: TurnConnection | None = None
        self.turnstile: Turnstile | None = None
        self.gate: asyncio.Future[None] | None = None
        # A fault of the next COMMIT, and whether the actor dies with the latest fault.
        self.armed: Fault | None = None
        self.dies = False

        def connect(_: object, __: object, ___: object, options: dict[str, Any]) -> None:
            opened = options["async_creator_fn"]
            options["async_creator_fn"] = partial(TurnConnection.open_for, self, **opened.keywords)

        event.listen(self.database.engine.sync_engine, "do_connect", connect)

    @property
    def pid(self) -> int | None:
        """The server process of the connection."""
        is_open = self.connection is not None and not self.connection.closed
        return self.connection.info.backend_pid if is_open and self.connection else None

    async def turn(self) -> None:
        if self.turnstile:
            await self.turnstile.let_through(self)

    @property
    def is_over(self) -> bool:
        """Whether the actor must not begin another operation."""
        return self.turnstile is not None and self.turnstile.is_open

    def suffers(self, fault: Fault) -> bool:
        """Whether the fault is due. Each happens once."""
        if self.armed is not fault:
            return False
        self.armed = None
        if self.turnstile:
            self.turnstile.faults[fault] += 1
        return True

    def reset(self, turnstile: "Turnstile") -> None:
        self.turnstile, self.gate, self.armed, self.dies = turnstile, None, None, False

    async def close(self) -> None:
        self.turnstile = None
        await self.database.close()


class Turnstile:
    """Lets sessions make their round trips, in the order of the turns, and injects the turns' faults.

    In turns, a session makes its round trip only when every other one waits at the turnstile, or for a lock that
    another one holds. The same turns then lead to the same order of all statements, whatever the machine does.
    """

    def __init__(
        self, admin: psycopg.AsyncConnection[Any], turns: Iterable[Turn], sessions: Sequence[Session], *, in_turns: bool
    ) -> None:
        self._admin, self._turns, self._in_turns = admin, iter(turns), in_turns
        # Open at the end: what is under way is finished without turns and faults, and no further operation begins.
        self.is_open = False
        self._moved = asyncio.Event()
        self._admin_lock = asyncio.Lock()
        self._blocked: list[Session] = []
        self.faults: Counter[Fault] = Counter()
        for session in sessions:
            session.reset(self)

    async def let_through(self, session: Session) -> None:
        """Wait for the session's turn."""
        if self.is_open:
            return
        if not self._in_turns:
            await self._inject(session, next(self._turns, Turn()))
            return
        session.gate = asyncio.get_running_loop().create_future()
        self._moved.set()
        await session.gate

    async def run(self, work: Sequence[tuple[Session, Coroutine[Any, Any, None]]]) -> None:
        """Run the actors to their end. The first error of one ends all after their present operation, and is raised."""
        running = {session: asyncio.create_task(one) for session, one in work}
        for task in running.values():
            task.add_done_callback(lambda _: self._moved.set())
        try:
            if self._in_turns:
                await self._take_turns(running)
            await asyncio.gather(*running.values())
        finally:
            self.is_open = True
            for session in running:
                self._release(session)
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def _take_turns(self, running: dict[Session, asyncio.Task[None]]) -> None:
        while not any(task.done() and task.exception() for task in running.values()):
            await self._until_all_wait(running)
            ready = [session for session in running if session.gate]
            if not ready and not self._blocked:
                return
            if not ready:  # until PostgreSQL ends the deadlock
                await asyncio.sleep(PATIENT_SECONDS)
                continue
            turn = next(self._turns, Turn())
            # A session that waits for a lock can be killed, but not go on.
            able = ready + (self._blocked if turn.fault is Fault.KILLED else [])
            session = able[turn.choice % len(able)]
            await self._inject(session, turn)
            self._release(session)

    def _release(self, session: Session) -> None:
        gate, session.gate = session.gate, None
        if gate and not gate.done():
            gate.set_result(None)

    async def _until_all_wait(self, running: dict[Session, asyncio.Task[None]]) -> None:
        """Until every session that has not ended waits, at the turnstile or for a lock."""
        while True:
            moving = [session for session, task in running.items() if not task.done() and session.gate is None]
            if not moving:
                self._blocked = []
                return
            if not set(moving) <= set(self._blocked) and await self._has_moved():
                continue
            waiting = await self._query(WAITING)
            if all(session.pid in waiting for session in moving):
                self._blocked = moving
                return
            self._blocked = [session for session in self._blocked if session.pid in waiting]
            await self._has_moved()

    async def _has_moved(self) -> bool:
        """Whether a session came to the turnstile, or ended, within a short time."""
        try:
            async with asyncio.timeout(PATIENT_SECONDS):
                await self._moved.wait()
        except TimeoutError:
            return False
        self._moved.clear()
        return True

    async def _inject(self, session: Session, turn: Turn) -> None:
        if turn.fault is Fault.NONE:
            return
        session.dies = turn.dies
        if turn.fault is Fault.KILLED:
            ended = await self._query(f"SELECT pg_terminate_backend({session.pid or 0}, {KILL_MILLISECONDS})")
            self.faults[Fault.KILLED] += ended == [True]
        else:
            session.armed = turn.fault

    async def _query(self, statement: str) -> list[Any]:
        async with self._admin_lock:
            cursor = await self._admin.execute(statement.encode())
            return [row[0] for row in await cursor.fetchall()]
