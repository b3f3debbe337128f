"""python -m squeeze"""

import os
import signal
import sys

from .cli import main

if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # either way what is under way is left whole, also in the background
        signal.signal(stop, signal.default_int_handler)
    try:
        try:
            sys.exit(main())
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that what is left raises nothing at the end
        sys.exit(141)  # what a shell calls an end by SIGPIPE
