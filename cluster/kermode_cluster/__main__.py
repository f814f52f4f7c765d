"""Entry point of `python3 -m kermode_cluster`."""

import sys

from .cli import main

sys.exit(main())
