"""The service's domain."""

QUESTION = "Which plan has SSO?"
