"""The one step of an embedding. It runs inline only, in a gateway, without a workflow that would need an activity."""

from activities.one_call import OneCall
from parley.domain.embedding import EmbeddingJob, EmbeddingResult
from parley.domain.requests import EmbeddingReply


class EmbeddingStep(OneCall):
    """Requests vectors."""

    async def embed(self, job: EmbeddingJob) -> EmbeddingResult:
        """Request the vectors, or return those that were paid for under the job's key.

        Raises:
            ParleyError: as `PaidCalls.make` does.
        """
        settled = await self.make(job)
        assert isinstance(settled.reply, EmbeddingReply)  # noqa: S101 - a fingerprint belongs to one kind of request
        return EmbeddingResult(vectors=settled.reply.vectors, meta=await self.described(job, settled))
