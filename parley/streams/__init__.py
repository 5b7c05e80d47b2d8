"""The way of a reply's deltas from the paid call to the readers of the stream. docs/streaming.md explains it."""
