"""Which features of linear layers go into which block."""
