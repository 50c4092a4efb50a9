"""The front end's parts: a file for each tier of tracing, and for what all tiers share."""
