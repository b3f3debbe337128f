"""Asks a running app for three pictures through its API and has the probe read the place in them; exits 1 where no
picture comes or the place is right in fewer than two."""

import sys
from pathlib import Path

from gradio_client import Client, handle_file
from PIL import Image

from squeeze.images import to_tensor
from squeeze.models.profiles import PROFILES
from squeeze.plush.probe import Probe
from squeeze.plush.world import PLACES

ROOT = Path(__file__).resolve().parents[1]
PLACE = "beach"


def main(address: str) -> int:
    client = Client(address, verbose=False)
    reference = handle_file(str(sorted((ROOT / "assets" / "examples").glob("*.png"))[0]))
    seen = []
    probe = Probe.from_pretrained(PROFILES["plush"].folder / "probe").float().eval()
    for seed in range(3):
        path, _ = client.predict(reference=reference, prompt=f"the toy on the {PLACE}", seed=seed, api_name="/generate")
        with Image.open(path) as picture:
            read = probe.read(to_tensor(picture.convert("RGB")))
        seen.append(PLACES[int(read.index["place"][0])])
    print(f"Asked for the {PLACE}; the probe sees: {', '.join(seen)}.")
    return 0 if seen.count(PLACE) >= 2 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
