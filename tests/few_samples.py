"""python -m squeeze with parts that train on chunks of few samples, since drawing hundreds takes a minute."""

import sys

from squeeze.cli import main
from squeeze.training import mllm, parts, phases

for module in (mllm, parts, phases):
    module.CHUNK = 8
sys.exit(main())
