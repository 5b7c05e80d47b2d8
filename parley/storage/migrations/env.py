"""Alembic's entry: runs on the connection that storage/migrate.py hands over."""

from alembic import context

from parley.storage.tables import SQLModel

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)

with context.begin_transaction():
    context.run_migrations()
