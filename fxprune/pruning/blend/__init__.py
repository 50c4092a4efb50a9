"""A criterion blended of others, by an evolutionary search."""
