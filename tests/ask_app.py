"""Asks a running app for three pictures through its API and has the probe read the place in them; exits 1 where no
picture comes, the app starts too slowly, or the place is right in fewer than two."""

import sys
import time
from pathlib import Path

from gradio_client import Client, handle_file
from PIL import Image

from squeeze.images import to_tensor
from squeeze.models.profiles import PROFILES
from squeeze.plush.probe import Probe
from squeeze.plush.world import PLACES

ROOT = Path(__file__).resolve().parents[1]
PLACE = "beach"
STARTS_WITHIN = 20  # seconds


def connect(address: str) -> tuple[Client, float]:
    """A client of the app and the seconds it took to answer."""
    began = time.monotonic()
    while True:
        try:
            return Client(address, verbose=False), time.monotonic() - began
        except Exception:  # whatever a server that is not there yet raises
            if time.monotonic() - began > 120:
                raise
            time.sleep(0.2)


def main(address: str) -> int:
    client, seconds = connect(address)
    print(f"The app answered after {seconds:.1f} s.")
    reference = handle_file(str(sorted((ROOT / "assets" / "examples").glob("*.png"))[0]))
    seen = []
    probe = Probe.from_pretrained(PROFILES["plush"].folder / "probe").float().eval()
    for seed in range(3):
        path, _ = client.predict(reference=reference, prompt=f"the toy on the {PLACE}", seed=seed, api_name="/generate")
        with Image.open(path) as picture:
            read = probe.read(to_tensor(picture.convert("RGB")))
        seen.append(PLACES[int(read.index["place"][0])])
    print(f"Asked for the {PLACE}; the probe sees: {', '.join(seen)}.")
    return 0 if seconds < STARTS_WITHIN and seen.count(PLACE) >= 2 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
