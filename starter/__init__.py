"""Everything that starts or watches workflows: the typed client, the CLI, the embedded stack."""
