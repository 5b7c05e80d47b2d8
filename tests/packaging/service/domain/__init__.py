"""The service's own domain."""

QUESTION = "Which plan has SSO?"
