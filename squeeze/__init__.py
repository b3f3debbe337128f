"""Subject-driven image generation with a multimodal LLM, streamed stage by stage."""

import logging

# On a CPU it asks at import for a package of 4-bit kernels; nothing here is in 4 bit.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
