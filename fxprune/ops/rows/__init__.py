"""The rows of the table of ops, a file a family."""
