"""Two commands after each other in every process that `accelerate launch` starts: DreamBench into a folder that holds
the results of another run, and into another: python tests/two_commands.py FILLED FREE ARGUMENTS..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from squeeze.cli import main

if __name__ == "__main__":
    filled, free, *command = sys.argv[1:]
    assert main([*command, "--out", filled, "--cfg", "1"]) == 2
    sys.exit(main([*command, "--out", free]))
