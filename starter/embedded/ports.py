"""Free ports for the parts, the same at every start if possible."""

import hashlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from starter.embedded.state import HOST

# Below the ephemeral ports of outgoing connections, so that they are still free at the next start.
FIRST, LAST = 20_000, 32_000


class Ports:
    """The ports of one stack by name; the ports of its last run are tried first."""

    def __init__(self, remembered: Mapping[str, int], state_dir: Path) -> None:
        self.by_name = dict(remembered)
        self._refused: set[int] = set()
        digest = hashlib.sha256(str(state_dir).encode()).digest()
        self._start = FIRST + int.from_bytes(digest[:4]) % (LAST - FIRST)

    def choose(self, names: tuple[str, ...]) -> dict[str, int]:
        """A free port for each name."""
        for name in names:
            self.by_name[name] = next(port for port in self._candidates(name) if _is_free(port))
        return {name: self.by_name[name] for name in names}

    def refuse(self, names: tuple[str, ...]) -> None:
        """Do not choose the current ports of these names again: another process took them."""
        self._refused.update(self.by_name.pop(name) for name in names)

    def _candidates(self, name: str) -> Iterator[int]:
        others = {port for other, port in self.by_name.items() if other != name}
        remembered = [self.by_name[name]] if name in self.by_name else []
        for port in (*remembered, *range(self._start, LAST), *range(FIRST, self._start)):
            if port not in others | self._refused:
                yield port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # The servers set it too: connections of the last run may still be in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
