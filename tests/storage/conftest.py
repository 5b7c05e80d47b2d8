"""Every test of the storage ends with a clean audit."""

from tests.storage.books import books, the_ledger_agrees

__all__ = ["books", "the_ledger_agrees"]
