"""`AutoAnalyze`: `job` tells the whole story, `stream` is one of its parallel streams, `batches` labels one batch."""
