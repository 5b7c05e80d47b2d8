"""The service's own starter."""

OWNER = "the service"
