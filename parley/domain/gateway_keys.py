"""Gateway keys: what a program that speaks HTTP to the gateway proves its workspace and its rights with."""

import hashlib
import re
from enum import StrEnum

from pydantic import AwareDatetime

from parley.domain.generate.contract import Mode
from parley.domain.model import Model

# 256 random bits in base64url, after a word that secret scanners can search for.
KEY_PATTERN = re.compile(r"parley_[A-Za-z0-9_-]{43}")
PREFIX_CHARACTERS = 12
MOST_REQUESTS_PER_MINUTE = 10_000_000
MOST_CONCURRENT_STREAMS = 100_000
DEFAULT_REQUESTS_PER_MINUTE = 600
DEFAULT_CONCURRENT_STREAMS = 50
# A gateway process takes requests of a minute in shares, so that a key costs at most this many writes a minute, and one
# more for each process.
SHARES = 20


class Scope(StrEnum):
    """A right of a key. No scope includes another one."""

    GENERATE = "generate"
    """Ask for answers: chats, completions and generations, which cost money and energy."""
    JOBS = "jobs"
    """Start and cancel jobs on sessions and chats, which cost money and energy."""
    READ = "read"
    """Read jobs, results, events and reports."""
    KNOWLEDGE = "knowledge"
    """Add and remove documents of the knowledge base, which answers are made from."""
    BUDGETS = "budgets"
    """Change what the workspace may spend."""


# A program that starts jobs must not raise the cap that limits it.
DEFAULT_SCOPES = (Scope.GENERATE, Scope.JOBS, Scope.READ)


class GatewayKey(Model):
    """A key without its secret, of which only the SHA-256 is stored.

    prefix: the first characters of the secret, so that its owner recognises it.
    requests_per_minute: the most requests in a minute of the database's clock, over all gateway processes.
    concurrent_streams: the most open streams in one gateway process.
    mode: how generations run that do not choose it themselves; None: by the policy of their action.
    last_used_at: exact to a minute.
    """

    key_id: str
    workspace_id: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    requests_per_minute: int
    concurrent_streams: int
    mode: Mode | None = None
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    last_used_at: AwareDatetime | None = None

    def is_valid(self, now: AwareDatetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class NewGatewayKey(GatewayKey):
    """A key that was just made, with its secret, which is shown once."""

    secret: str


def hash_of(secret: str) -> str:
    """The hash under which a key is stored.

    A fast hash is right here: slow ones protect passwords, which can be guessed. 256 random bits cannot, and a slow
    hash would cost each request milliseconds. A lookup by hash also gives away nothing by its duration: it shows how
    far two hashes agree, and no one can choose a secret by the beginning of its hash.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


def share(requests_per_minute: int) -> int:
    """How many requests a gateway process takes at once from a minute's allowance."""
    return max(1, requests_per_minute // SHARES)
