"""How long a segment of a run may be: its history must stay below what Temporal allows."""

# Ten thousand are too many. What is left to that is for what nobody foresees.
MOST_EVENTS = 9_000
# Each of these counts the worst case, in which every event brings a workflow task of three events of its own.
# A stream starts (2 events) and ends (a signal of 2, its completion), and may fail once: then the parent does its
# batch, in five requests on two providers each.
EVENTS_PER_STREAM = (2 + 3) + (2 + 3) + (1 + 3) + 5 * 2 * (3 + 3)
# In a round a stream is called (2), and it may say that it waits (1) before it reports (1).
EVENTS_PER_STREAM_ROUND = (2 + 3) + (1 + 3) + (1 + 3)
# A round's batches are one activity.
EVENTS_PER_ROUND = 3 + 3


def most_events(streams: int, rounds: int) -> int:
    """The most events that so many rounds of so many streams add to their parent's history."""
    return streams * EVENTS_PER_STREAM + rounds * (EVENTS_PER_ROUND + streams * EVENTS_PER_STREAM_ROUND)


def rounds_per_segment(streams: int, history: int) -> int:
    """How many rounds a run with so many streams may do, with a history as long as this, before it continues as new."""
    room = MOST_EVENTS - history - most_events(streams, 0)
    return max(room // (most_events(streams, 1) - most_events(streams, 0)), 0)
