"""the service's starter."""

OWNER = "the service"
