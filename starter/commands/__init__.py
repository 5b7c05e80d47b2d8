"""The areas of the command line: one module each, registered in starter/cli.py."""
