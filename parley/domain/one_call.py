"""A job that is one paid request, without a workflow: its ids in the ledger."""

import hashlib
from typing import ClassVar

from parley.domain.model import Model
from parley.domain.requests import request_id


class OneCallJob(Model):
    """The base of such jobs. `step`: the name of the one step, which its ids begin with."""

    step: ClassVar[str]

    @property
    def of(self) -> tuple[str, str]:
        """The workspace, and the idempotency key within it."""
        raise NotImplementedError

    @property
    def id(self) -> str:
        """The id in the ledger, in the place of that of a workflow."""
        return "/".join((self.step, *self.of))

    @property
    def job_key(self) -> str:
        """The same for all requests under the key."""
        return f"{self.step}:{hashlib.sha256(self.id.encode()).hexdigest()[:32]}"

    @property
    def request_id(self) -> str:
        """The id of the one paid request."""
        return request_id(self.job_key, self.step)
