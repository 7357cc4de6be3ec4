"""`lvgan` and `python -m lvgan`."""

from __future__ import annotations


def main() -> None:
    """Run the command line; see :mod:`lvgan.cli`."""
    from lvgan.cli import run

    run()


if __name__ == "__main__":
    main()
