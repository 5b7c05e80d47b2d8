"""What a labelling run will probably cost: it advises, and reserves nothing."""

from decimal import Decimal

from parley.domain.model import Model
from parley.domain.pricing import Rates, cost
from parley.domain.requests import Provider, Usage

# Measured on the sample of 379 sessions with the default batches: instructions and known labels that are sent with each
# session, and the tokens of its labels in the reply.
SENT_WITH_A_SESSION = 220
LABELS_OF_A_SESSION = 65


class RunEstimate(Model):
    """The estimated cost of a labelling run, with the model that it is estimated for.

    `warnings`: what makes the run slower than it could be.
    """

    provider: Provider
    model: str
    estimated_usd: Decimal
    warnings: tuple[str, ...] = ()


def estimated_usd(sessions: int, tokens: int, rates: Rates) -> Decimal:
    """The estimated cost of a dataset with so many sessions and tokens."""
    usage = Usage(input_tokens=tokens + sessions * SENT_WITH_A_SESSION, output_tokens=sessions * LABELS_OF_A_SESSION)
    return cost(usage, rates)


def idle_streams(streams: int, requests_per_second: float) -> str:
    """A sentence if streams would be idle because of a provider's limit; empty if none would.

    Streams make as many requests a second as there are, over the seconds of a reply, so that the limit decides where
    replies take less than `streams / requests_per_second` seconds.
    """
    if streams <= requests_per_second:
        return ""
    seconds = streams / requests_per_second
    limit = f"{requests_per_second:g} requests a second"
    return f"with {limit}, some of {streams} streams are idle while replies take less than {seconds:g} s"
