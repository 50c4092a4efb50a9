"""What shows facts, diffs and runs to a person: the terminal, HTML pages, plots."""
