"""Timeouts and retries per class of activity, in one place."""

from datetime import timedelta
from typing import Any

from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import ActivityCancellationType

from parley.domain.queues import STORAGE

# A worker that has been silent for this long is taken for dead. Activities heartbeat every two seconds.
HEARTBEAT_TIMEOUT = timedelta(seconds=10)

# A storage step is quick, but outlasts a database that is away for a while.
STORAGE_STEP: dict[str, Any] = {
    "task_queue": STORAGE,
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(hours=1),
    "heartbeat_timeout": HEARTBEAT_TIMEOUT,
    # What it wrote must be there before a cancelled job is closed.
    "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1),
        maximum_interval=timedelta(seconds=10),
        maximum_attempts=1000,
    ),
}

# A storage step over every session of a job, of which there may be a million: `Database.transaction(bulk=True)`.
BULK_STEP: dict[str, Any] = {
    **STORAGE_STEP,
    "start_to_close_timeout": timedelta(hours=1),
    "schedule_to_close_timeout": timedelta(hours=4),
}

# A paid step has three tries from 1 s doubling; a provider's Retry-After overrides the delay. One try covers waiting
# out another owner's lease, the provider's timeout, and a settle that outlasts the database.
PAID_STEP: dict[str, Any] = {
    "start_to_close_timeout": timedelta(minutes=15),
    "schedule_to_close_timeout": timedelta(hours=2),
    "heartbeat_timeout": HEARTBEAT_TIMEOUT,
    "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_attempts=3),
}

# For a caller who will not wait: one try, and none at all where no worker is free.
PAID_STEP_AT_ONCE: dict[str, Any] = {
    **PAID_STEP,
    "schedule_to_start_timeout": timedelta(seconds=10),
    "schedule_to_close_timeout": timedelta(seconds=90),
    "retry_policy": RetryPolicy(maximum_attempts=1),
}

# How long a job parks between two rounds over providers that are all down: doubling, to keep the history small.
FIRST_PARK = timedelta(seconds=30)
LONGEST_PARK = timedelta(minutes=15)

# A step that only reads and writes the database, in the workflow's own task: a regular one takes three times as long.
LOCAL_STEP: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=30),
    "schedule_to_close_timeout": timedelta(hours=1),
    "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10)),
}

# A paid step that somebody waits for. A rate limit is the workflow's own to wait out, or to walk around.
ANSWER_STEP: dict[str, Any] = {
    **PAID_STEP,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1),
        backoff_coefficient=2.0,
        maximum_attempts=3,
        non_retryable_error_types=["RateLimited"],
    ),
}

# How long one provider's rate limit is waited out before the next one is asked.
LONGEST_RATE_LIMIT = timedelta(minutes=10)

# A grade: one try, behind everything that somebody waits for, and none at all where the provider is busy for long.
GRADE_STEP: dict[str, Any] = {
    **PAID_STEP,
    "schedule_to_start_timeout": timedelta(minutes=10),
    "priority": Priority(priority_key=5),
    "retry_policy": RetryPolicy(maximum_attempts=1),
}

# A free question, before everything else that waits for the provider: whoever asks wants to know now.
PING_STEP: dict[str, Any] = {
    "schedule_to_start_timeout": timedelta(seconds=5),
    "start_to_close_timeout": timedelta(seconds=15),
    "priority": Priority(priority_key=1),
    "retry_policy": RetryPolicy(maximum_attempts=1),
}
