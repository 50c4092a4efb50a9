"""How graphs are written as plain PyTorch and read back; :mod:`fxprune.emit` is the way in."""
