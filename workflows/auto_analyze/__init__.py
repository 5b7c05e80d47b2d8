"""`AutoAnalyze`: `job` runs the phases, `parallel` starts the streams, `stream` is one, `batches` labels one batch."""
