"""Named tuples and dataclasses that a model returns: described as data, written as source, made again."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """A class of values under names: ``kind`` is "namedtuple" or "dataclass"."""

    kind: str
    name: str
    fields: tuple[str, ...]

    def make(self) -> type[Any]:
        """Return such a class; raises ValueError or TypeError for a name that is none."""
        if not self.name.isidentifier():
            raise ValueError(f"{self.name!r} is no name of a class")
        if self.kind == "namedtuple":
            made: type[Any] = namedtuple(self.name, self.fields)  # type: ignore[misc]
            return made
        return dataclasses.make_dataclass(self.name, self.fields)

    def source(self) -> str:
        """Return the statement that defines the class."""
        if self.kind == "namedtuple":
            return f"{self.name} = namedtuple({self.name!r}, {list(self.fields)!r})".replace("'", '"')
        rows = "\n".join(f"    {name}: object" for name in self.fields)
        return f"@dataclass\nclass {self.name}:\n{rows}"

    @property
    def imports(self) -> str:
        """Return the import line that :meth:`source` needs."""
        return (
            "from collections import namedtuple" if self.kind == "namedtuple" else "from dataclasses import dataclass"
        )


def record_of(kind: Any) -> Record | None:
    """Describe the class ``kind``; None if it is no plain named tuple or dataclass (one with bases of its own)."""
    if not isinstance(kind, type):
        return None
    if issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
        return Record("namedtuple", kind.__name__, kind._fields)  # type: ignore[attr-defined]
    plain = dataclasses.is_dataclass(kind) and kind.__bases__ == (object,) and "__post_init__" not in vars(kind)
    fields = dataclasses.fields(kind) if plain else ()
    if fields and all(field.init for field in fields):
        return Record("dataclass", kind.__name__, tuple(field.name for field in fields))
    return None
