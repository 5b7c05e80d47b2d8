"""One adapter per vendor on its own SDK. Only the paid call imports this package."""
