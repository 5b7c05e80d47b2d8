"""The service's own settings."""

WORKSPACE = "acme"
TASK_QUEUE = "acme-answers"
