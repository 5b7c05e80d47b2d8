"""Orchestration only: order, parallelism, retries, timers. Deterministic, and readable as the story of the job."""
