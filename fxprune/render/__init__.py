"""How results are shown: in the terminal, and as files in a folder."""
