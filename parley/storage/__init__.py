"""PostgreSQL: tables, migrations, and one module per concern. Every query is scoped to a workspace."""
