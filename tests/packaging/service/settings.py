"""The service's settings."""

WORKSPACE = "acme"
TASK_QUEUE = "acme-answers"
