"""What the adapters share to read a reply that comes in pieces."""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from parley.domain.errors import Billed, ProviderError
from parley.domain.requests import Usage
from parley.domain.streaming import Delta, TextDelta, ToolCallDelta

SURROGATE = re.compile("[\ud800-\udfff]")


class JoinedText:
    """Text from pieces. A character that JSON writes as two escapes may come as two halves in two pieces."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Add a piece. Returns what is whole by now and was not returned before."""
        piece, self._half = self._half + piece, ""
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        if SURROGATE.search(piece):
            piece = piece.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        self._pieces.append(piece)
        return piece

    def end(self) -> str:
        """End the text. Returns U+FFFD if half of a character never came, else nothing."""
        half, self._half = self._half, ""
        return self.add("\ufffd") if half else ""

    @property
    def text(self) -> str:
        """All that was returned."""
        return "".join(self._pieces)


@dataclass
class StreamedCall:
    """A tool call whose arguments come in pieces."""

    id: str
    name: str
    arguments: JoinedText = field(default_factory=JoinedText)


class StreamedReply:
    """A reply of text and tool calls that comes in pieces. Each method yields the deltas that it makes."""

    def __init__(self) -> None:
        self._text = JoinedText()
        self.calls: list[StreamedCall] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.text

    @property
    def has_begun(self) -> bool:
        """Whether anything was delivered."""
        return bool(self.calls or self.text)

    def add_text(self, piece: str) -> Iterator[Delta]:
        whole = self._text.add(piece)
        if whole:
            yield TextDelta(text=whole)

    def start_call(self, id: str, name: str) -> Iterator[Delta]:
        self.calls.append(StreamedCall(id, name))
        yield ToolCallDelta(index=len(self.calls) - 1, id=id, name=name)

    def add_arguments(self, call: StreamedCall, piece: str) -> Iterator[Delta]:
        whole = call.arguments.add(piece)
        if whole:
            yield ToolCallDelta(index=self.calls.index(call), arguments=whole)

    def end(self) -> Iterator[Delta]:
        """What is left of characters whose second half never came."""
        if rest := self._text.end():
            yield TextDelta(text=rest)
        for index, call in enumerate(self.calls):
            if rest := call.arguments.end():
                yield ToolCallDelta(index=index, arguments=rest)


@contextmanager
def interruption_counted(reply: StreamedReply, counted: Callable[[], Usage | None]) -> Generator[None]:
    """Add to the error that ends a stream what the vendor had counted. Text that was delivered may have been billed."""
    try:
        yield
    except ProviderError as error:
        usage = error.usage or counted()
        if usage is not None:
            error.usage, error.billed = usage, Billed.YES
        elif reply.has_begun and error.billed is Billed.NO:
            error.billed = Billed.UNKNOWN
        raise
