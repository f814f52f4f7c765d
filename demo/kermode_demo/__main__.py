"""Entry point of `python3 -m kermode_demo`."""

import sys

from .cli import main

sys.exit(main())
