"""the service's domain."""

QUESTION = "Which plan has SSO?"
