"""python -m squeeze"""

import os
import signal
import sys

from .cli import main

if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # either way what is under way is left whole, also in the background
        signal.signal(stop, signal.default_int_handler)
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere, without a complaint
        status = 128 + signal.SIGPIPE
    sys.exit(status)
