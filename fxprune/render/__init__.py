"""What shows facts, diffs and runs to a person: the terminal, the files of a folder, HTML pages, plots."""
