"""python -m squeeze with parts that train on chunks of few samples, since drawing hundreds takes a minute."""

import runpy

from squeeze.training import critic, mllm, parts, phases

for module in (critic, mllm, parts, phases):
    module.CHUNK = 8
runpy.run_module("squeeze", run_name="__main__")
