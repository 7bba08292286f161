"""Mutated real videos through the decoders of one worker, in a process without torch; prints what became of them.

python -m tests.fuzz_videos COUNT SEED FOLDER
"""

import contextlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.errors import SampleError
from pipeline.records import Video, VideoRef

LIMITS = DecoderLimits(memory_bytes=2**30, stall_seconds=20, base_seconds=60)
# Whichever is reached first ends a decoder; a second attempt may take as long, and a tick passes before it is seen.
LONGEST_SECONDS = 2 * LIMITS.base_seconds + 10
OPTIONS = DecodeOptions(size=32, fps=4, max_pixels=2**24)
CLIPS = (
    "b.mp4",
    "b.avi",
    "bigbuckbunny.mp4",
    "bikes.mp4",
    "box.mp4",
    "carphone_pristine.mp4",
    "cityCC0.mpg",
    "tree.avi",
)


def mutated(videos: list[bytes], dice: random.Random) -> bytes:
    """One video with one kind of damage."""
    data = bytearray(dice.choice(videos))
    kind = dice.randrange(6)
    if kind == 0:  # bits flip, anywhere
        for _ in range(dice.choice([1, 8, 64, 512])):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == 1:  # bits flip where the header is
        for _ in range(dice.choice([1, 4, 16])):
            data[dice.randrange(min(2048, len(data)))] ^= 1 << dice.randrange(8)
    elif kind == 2:  # it breaks off
        del data[dice.randrange(len(data)) :]
    elif kind == 3:  # the header of another video
        other, size = dice.choice(videos), dice.choice([16, 64, 512, 4096])
        data[:size] = other[:size]
    elif kind == 4:  # packets change places
        size = dice.choice([188, 1024, 16384])
        for _ in range(dice.choice([1, 8, 32])):
            here, there = (dice.randrange(max(1, len(data) - size)) for _ in range(2))
            data[here : here + size], data[there : there + size] = data[there : there + size], data[here : here + size]
    else:  # a hole
        start, size = dice.randrange(len(data)), dice.choice([64, 4096, 65536])
        data[start : start + size] = bytes(min(size, len(data) - start))
    return bytes(data)


def stream(videos: list[bytes], count: int, seed: int) -> Iterator[Video]:
    for number in range(count):
        data = mutated(videos, random.Random(f"{seed}-{number}"))
        ref = VideoRef(shard_id="s", source_shard="s.tar", key=str(number), occurrence=0, size_bytes=len(data))
        yield Video(ref=ref, data=data, end=None)


def resident_bytes(pid: object = "self") -> int:
    """Of this process, and of those that it started."""
    try:
        total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0  # it ended just now
    children = []
    for thread in threads:
        with contextlib.suppress(OSError):
            children += (thread / "children").read_text().split()
    return total + sum(resident_bytes(child) for child in children)


def main(count: int, seed: int, folder: Path) -> None:
    videos = [(folder / name).read_bytes() for name in CLIPS if (folder / name).exists()]
    outcomes: Counter[str] = Counter()
    keys, memory, slowest = [], [], 0.0
    pool = DecoderPool(2, LIMITS)
    for video, frames in pool.decode(stream(videos, count, seed), OPTIONS):
        began = time.monotonic()
        try:
            num_frames = sum(1 for _ in frames)
            outcomes["rows" if num_frames else "nothing"] += 1
        except SampleError as error:
            outcomes[error.error] += 1
        slowest = max(slowest, time.monotonic() - began)
        keys.append(video.ref.key)
        memory.append(resident_bytes())
    pool.close()
    in_order = keys == [str(number) for number in range(count)]
    result = {"outcomes": outcomes, "in_order": in_order, "slowest": slowest, "memory": memory}
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
