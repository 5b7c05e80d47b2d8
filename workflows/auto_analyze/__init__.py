"""`AutoAnalyze`: `job` runs the phases, `rounds` runs the parallel streams, `batches` labels one batch."""
