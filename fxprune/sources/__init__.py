"""Where models come from."""

FORMS = "torchvision:NAME, timm:NAME, package.module:factory, path/file.py:factory, or a folder that fxprune wrote"
"""How a user names a model; here, where it can be told without torch."""
