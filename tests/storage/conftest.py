"""Every test of the storage ends with a clean audit."""

from tests.storage.ledger_fixture import books, database, must_agree

__all__ = ["books", "database", "must_agree"]
