"""`km` and `python -m kmcli`."""

from __future__ import annotations

import sys

from kmcli.cli.boundary import main

if __name__ == "__main__":
    sys.exit(main())
