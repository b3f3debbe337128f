"""python -m squeeze"""

import signal
import sys

from .cli import main

if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # either way what is under way is left whole, also in the background
        signal.signal(stop, signal.default_int_handler)
    sys.exit(main())
