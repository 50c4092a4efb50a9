"""How fast the compiler is, what it emits, and the page of a diff."""
