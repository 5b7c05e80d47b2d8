"""The typed client: start, watch, cancel and read jobs."""
