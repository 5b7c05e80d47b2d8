"""Timeouts and retries per class of activity, in one place."""

from datetime import timedelta
from typing import Any

from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import ActivityCancellationType

from parley.domain.queues import ACOUSTICS, STORAGE

# Without a heartbeat for this long a worker counts as dead. Activities heartbeat every two seconds.
HEARTBEAT_TIMEOUT = timedelta(seconds=10)

# A storage step is quick, but its retries outlast an outage of the database.
STORAGE_STEP: dict[str, Any] = {
    "task_queue": STORAGE,
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(hours=1),
    "heartbeat_timeout": HEARTBEAT_TIMEOUT,
    # What it writes must be committed before a cancelled job is closed.
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

# Minutes of CPU for hours of sound. An analysis does not wait longer for it: it goes on without.
ACOUSTICS_STEP: dict[str, Any] = {
    "task_queue": ACOUSTICS,
    "start_to_close_timeout": timedelta(minutes=10),
    "schedule_to_close_timeout": timedelta(minutes=20),
    "heartbeat_timeout": HEARTBEAT_TIMEOUT,
    "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
}

# A paid step has three attempts, 1 s apart and doubling; a provider's Retry-After overrides the delay. The timeout of
# one attempt covers the lease of another owner, the provider's timeout, and an outage of the database at settlement.
PAID_STEP: dict[str, Any] = {
    "start_to_close_timeout": timedelta(minutes=15),
    "schedule_to_close_timeout": timedelta(hours=2),
    "heartbeat_timeout": HEARTBEAT_TIMEOUT,
    "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_attempts=3),
}

# To put a batch of 50,000 requests together, and to settle it. A request that is in it is paid for: a step that is
# cancelled says so when it has ended.
SUBMISSION_STEP: dict[str, Any] = {
    **PAID_STEP,
    "start_to_close_timeout": timedelta(hours=3),
    "schedule_to_close_timeout": timedelta(hours=10),
    "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
}
# A look at a batch. The next one comes in minutes.
SUBMISSION_POLL: dict[str, Any] = {
    **PAID_STEP,
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(minutes=10),
}

# A recording of hours is transcribed on this machine in many minutes, and waits for those before it.
HEAR_STEP: dict[str, Any] = {
    **PAID_STEP,
    "start_to_close_timeout": timedelta(hours=5),
    "schedule_to_close_timeout": timedelta(hours=12),
}

# Of a paid step whose caller does not wait for a provider: no attempt after a rate limit or behind a long queue. A
# worker that dies, or a single error of a server, is tried again.
AT_ONCE: dict[str, Any] = {
    "schedule_to_start_timeout": timedelta(seconds=10),
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1),
        maximum_attempts=2,
        non_retryable_error_types=["RateLimited", "BreakerOpen"],
    ),
}
HEAR_STEP_AT_ONCE: dict[str, Any] = {**HEAR_STEP, **AT_ONCE}
# A request that jobs share. Where its queue is long, or its worker is away, each of them goes on alone.
JOINT_STEP: dict[str, Any] = {**PAID_STEP, "schedule_to_start_timeout": AT_ONCE["schedule_to_start_timeout"]}
PAID_STEP_AT_ONCE: dict[str, Any] = {**PAID_STEP, **AT_ONCE, "schedule_to_close_timeout": timedelta(seconds=90)}

# The pause before the candidates are tried again while all providers are down. It doubles, to keep the history small.
FIRST_PARK = timedelta(seconds=30)
LONGEST_PARK = timedelta(minutes=15)

# A local activity that only reads and writes the database: a regular one takes three times as long.
LOCAL_STEP: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=30),
    "schedule_to_close_timeout": timedelta(hours=1),
    "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10)),
}

# The same, where what it writes must be committed before a cancelled job is closed.
OWN_STEP: dict[str, Any] = {**LOCAL_STEP, "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED}

# A paid step that a caller waits for. The workflow handles rate limits: it waits, or tries another candidate.
ANSWER_STEP: dict[str, Any] = {
    **PAID_STEP,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1),
        backoff_coefficient=2.0,
        maximum_attempts=3,
        non_retryable_error_types=["RateLimited"],
    ),
}

# How long to wait for one provider's rate limit before the next candidate is tried.
LONGEST_RATE_LIMIT = timedelta(minutes=10)
# The pause after a rate limit where the provider does not ask for a longer one. It doubles, to keep the history small.
FIRST_RATE_LIMIT = timedelta(seconds=1)
LONGEST_UNASKED_PAUSE = timedelta(minutes=1)

# A grade: one attempt, with the lowest priority, and none if the provider's queue is long.
GRADE_STEP: dict[str, Any] = {
    **PAID_STEP,
    "schedule_to_start_timeout": timedelta(minutes=10),
    "priority": Priority(priority_key=5),
    "retry_policy": RetryPolicy(maximum_attempts=1),
}

# A free request with the highest priority, because an operator waits for it.
PING_STEP: dict[str, Any] = {
    "schedule_to_start_timeout": timedelta(seconds=5),
    "start_to_close_timeout": timedelta(seconds=15),
    "priority": Priority(priority_key=1),
    "retry_policy": RetryPolicy(maximum_attempts=1),
}
