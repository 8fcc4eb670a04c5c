"""``python -m gotrace``: the same as the ``gotrace`` command."""

from gotrace.cli import main

if __name__ == "__main__":
    main()
