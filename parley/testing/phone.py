"""Phone numbers and phone calls in memory, for `FakeClient`: nothing rings, and a test says what was said."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from parley.client.phone import Phone, checked_number, checked_settings, user_of
from parley.domain.errors import NotFound
from parley.domain.phone.contract import CallStatus, PhoneCallReport, PhoneNumber, PhoneTurn
from parley.domain.phone.keys import sealed
from parley.domain.phone.settings import NumberSettings

TOKEN = "auth-token-of-a-fake"  # noqa: S105 - seals what a test enters


class Dialled(NamedTuple):
    """A phone call that was started."""

    to: str
    from_number: str
    parameters: dict[str, str]


class FakePhone(Phone):
    """Attribute `dialled`: the phone calls that `dial` has started, in order."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace_id = workspace_id
        self._numbers: dict[str, PhoneNumber] = {}
        self._calls: dict[str, tuple[PhoneCallReport, tuple[PhoneTurn, ...]]] = {}
        self.dialled: list[Dialled] = []

    def add(self, call: PhoneCallReport, turns: Sequence[PhoneTurn] = ()) -> None:
        """Let the workspace have a phone call, or replace the one that has its CallSid."""
        self._calls[call.call_sid] = call, tuple(turns)

    async def set_number(self, number: str, settings: NumberSettings | Mapping[str, Any] | None = None) -> PhoneNumber:
        """Give a phone number to the workspace, or replace its settings.

        Raises:
            InvalidInput: the number or a setting is not valid.
        """
        made = PhoneNumber(
            number=checked_number(number), settings=checked_settings(settings), updated_at=datetime.now(UTC)
        )
        self._numbers[number] = made
        return made

    async def numbers(self) -> tuple[PhoneNumber, ...]:
        """The phone numbers of the workspace."""
        return tuple(self._numbers[number] for number in sorted(self._numbers))

    async def remove_number(self, number: str) -> None:
        """Take no further phone call on a number.

        Raises:
            NotFound: the workspace does not have the number.
        """
        self._check_number(number)
        del self._numbers[number]

    async def dial(self, to: str, *, from_number: str, parameters: Mapping[str, str] | None = None) -> str:
        """Record that a number is called; returns the id of a phone call that is queued.

        Raises:
            InvalidInput: an argument is not valid.
            NotFound: the workspace does not have the number.
        """
        target, given = checked_number(to), dict(parameters or {})
        self._check_number(from_number)
        settings = self._numbers[from_number].settings
        call = PhoneCallReport(
            call_sid=f"CA{uuid4().hex}",
            number=from_number,
            caller=target,
            direction="outbound",
            status=CallStatus.QUEUED,
            user_id=user_of(self._workspace_id, target),
            language=settings.language,
            parameters={**settings.parameters, **given},
            started_at=datetime.now(UTC),
            seconds=0,
            turns=0,
            sessions=0,
            interruptions=0,
            errors=0,
            keys=0,
        )
        self.add(call)
        self.dialled.append(Dialled(target, from_number, given))
        return call.call_sid

    def sealed(self, digits: str) -> str:
        """Secret digits as a parameter of `dial` can have them."""
        return sealed(digits, TOKEN)

    async def calls(
        self, *, before: datetime | None = None, limit: int = 50, is_open: bool | None = None
    ) -> tuple[PhoneCallReport, ...]:
        """The phone calls, the newest first."""
        found = [
            call
            for call, _ in self._calls.values()
            if (before is None or call.started_at < before) and is_open in (None, call.ended_at is None)
        ]
        return tuple(sorted(found, key=lambda call: call.started_at, reverse=True)[:limit])

    async def call(self, call_sid: str) -> PhoneCallReport:
        """A phone call.

        Raises:
            NotFound: there is no such phone call.
        """
        return self._one(call_sid)[0]

    async def turns(self, call_sid: str) -> tuple[PhoneTurn, ...]:
        """What was said in a phone call.

        Raises:
            NotFound: there is no such phone call.
        """
        return self._one(call_sid)[1]

    def _one(self, call_sid: str) -> tuple[PhoneCallReport, tuple[PhoneTurn, ...]]:
        if call_sid not in self._calls:
            raise NotFound(f"workspace {self._workspace_id!r} has no phone call {call_sid!r}")
        return self._calls[call_sid]

    def _check_number(self, number: str) -> None:
        if number not in self._numbers:
            raise NotFound(f"workspace {self._workspace_id!r} does not have the number {number!r}")
