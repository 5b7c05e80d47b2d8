"""Thin side effects, one file per capability. Only paid_call.py calls providers."""
