"""The page of an analysis: one template for a file that opens offline, and for the console."""
