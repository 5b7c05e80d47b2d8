#!/bin/sh
# Makes Temporal's two databases and brings their schemas up to this image's version. Safe to run again.
set -eu

for database in temporal temporal_visibility; do
  sql() {
    temporal-sql-tool --plugin "$DB" --ep "$POSTGRES_SEEDS" --port "$DB_PORT" --user "$POSTGRES_USER" \
      --db "$database" "$@"
  }
  sql create
  sql setup-schema --version 0.0
  sql update-schema --schema-dir "/etc/temporal/schema/postgresql/v12/${database#temporal_}/versioned"
done
