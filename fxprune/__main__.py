"""``python -m fxprune``, and so ``torchrun -m fxprune``."""

from fxprune.cli import main

if __name__ == "__main__":
    main()
