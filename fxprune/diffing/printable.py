"""Names as they can be shown anywhere: they come from models, which may be anybody's."""


def printable(text: str) -> str:
    """Return ``text`` with line breaks, escape sequences and other invisible characters spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
