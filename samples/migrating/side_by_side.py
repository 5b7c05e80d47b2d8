"""Compares Parley with the old engine: the old engine answers, and a share of its messages also goes through Parley.

Use a separate workspace, so that these costs do not mix with others.
"""

import logging
from hashlib import sha256

from parley import Client, ParleyError
from samples.migrating.chat_after import Refused, reply

log = logging.getLogger(__name__)


async def shadow(client: Client, user: str, message_id: int, text: str, *, share: float) -> None:
    """Call this when the old engine has answered. It costs a second answer, and it never raises."""
    if _draw(message_id) >= share:
        return
    try:
        await reply(client, user, message_id, text)
    except (ParleyError, Refused) as error:
        log.warning("the shadow of %s has no answer: %s", message_id, error)


def _draw(message_id: int) -> float:
    """Return a number in [0, 1) that is the same for one message on every server."""
    return int.from_bytes(sha256(str(message_id).encode()).digest()[:8]) / 2**64
