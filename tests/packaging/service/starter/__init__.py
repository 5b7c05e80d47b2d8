"""The service's starter."""

OWNER = "the service"
