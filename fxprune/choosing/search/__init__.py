"""Which layer goes next: a search a file."""
