"""What a pass is, and what holds it to its contract."""
