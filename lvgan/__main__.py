"""`lvgan` and `python -m lvgan`."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line; see :mod:`lvgan.cli`."""
    # Has to be set before torch is loaded. By default the threads of OpenMP burn their core while they wait for each
    # other; where another program wants that core too, a step takes a hundred times as long (measured: 0.9 s, 100 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors on large pages: fewer for the kernel to clear

    from lvgan.cli import run

    run()


if __name__ == "__main__":
    main()
