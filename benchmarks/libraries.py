"""Cost of a view of ViT-B/32 in open_clip and transformers: ``python benchmarks/libraries.py 8``.

Both have random weights. Passes of 32 views, with the gaze, alternate in one process with one
thread; the argument is their number. Times are the processor's.
"""

import statistics
import sys
import time

import torch
import transformers

from clipshift.encode import as_encoder, load_encoder
from clipshift.encode.encoder import ENCODE_BATCH


def main() -> None:
    """Print a Markdown table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    torch.set_num_threads(1)
    clip = transformers.CLIPModel(transformers.CLIPConfig())
    encoders = {
        "open_clip": load_encoder("ViT-B-32-quickgelu"),
        "transformers": as_encoder(clip, transformers.CLIPImageProcessor(), trained=False),
    }
    views = torch.rand(ENCODE_BATCH, 3, 224, 224)
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, encoder in encoders.items():
                start = time.process_time()
                encoder.encode_views(views)
                seconds[name].append(time.process_time() - start)
    print("| | minimum, ms per view | median, ms per view |\n| --- | --- | --- |")
    for name, times in seconds.items():
        per_view = [1000 * second / ENCODE_BATCH for second in times[1:]]  # the first warms up
        print(f"| {name} | {min(per_view):.1f} | {statistics.median(per_view):.1f} |")


if __name__ == "__main__":
    main()
