"""The steps of phone calls."""
