"""split_scenes: a video's frames, parted at its hard cuts.

A cut lies between two frames when the two before it and the two after it are far from each other, by colours in a
coarse grid, and farther than the frames of the calmer side among themselves. Nothing else enters: the same frames
give the same cuts, whoever decodes them and how often.

- Motion and pans: the grid's cells are compared as histograms, in which what moves inside a cell stays; the cells that
  change most do not count; and the calmer side sets the measure. At few frames a second, fast motion that fills the
  frame may still pass for cuts.
- A flash of one frame is no cut, since the frames around it are near each other. Nor is, then, a scene of one frame
  between two that are alike; and cuts between scenes of one frame each are missed. A longer flash is two cuts.
- Fades and dissolves are no hard cuts: nothing happens there, unless they are over within a few frames.

The figures stand in ARCHITECTURE.md, and in tests/pipeline/test_scenes.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, pairwise, product
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from pipeline.records import DecodedFrame

__all__ = ["split_scenes"]

# These change rows: whoever changes them raises SAMPLER_VERSION (decoding/frames.py). In real clips the frames across a
# cut differ by 20 at least but for a few, and neighbours in a scene, at their own rate, by 11 at most.
_FAR = 18.0  # of 255
_RATIO = 1.5  # to the calmer side

_CELLS, _POINTS = 4, 16  # along each side: cells of the frame, points of a cell
_BLACK = 8  # of 255: as dark as bars are
_LEAST_CELLS = 6  # that a distance is a mean of: a light in the dark is no scene

Colours = npt.NDArray[np.int16]


def split_scenes(frames: Iterable[DecodedFrame]) -> Iterator[Iterator[DecodedFrame]]:
    """Yields the scenes of a video, each as its frames; to be taken in order, as they come.

    One frame is looked at ahead.
    """
    for _, scene in groupby(_numbered(frames), key=itemgetter(0)):
        yield (frame for _, frame in scene)


def _numbered(frames: Iterable[DecodedFrame]) -> Iterator[tuple[int, DecodedFrame]]:
    """Each frame with the number of its scene."""
    scene = 0
    before: list[Colours] = []  # of the two frames before
    seen = ((frame, _colours(frame.pixels_HWC)) for frame in frames)
    for this, following in pairwise(chain(seen, [None])):
        assert this is not None, "None comes last"
        frame, colours = this
        scene += _is_cut(before, [colours] if following is None else [colours, following[1]])
        yield scene, frame
        before = [*before[-1:], colours]


def _is_cut(before: Sequence[Colours], after: Sequence[Colours]) -> bool:
    """Whether a scene ends between the last one or two frames before and the first one or two after."""
    if not before:
        return False
    across = min(_distance(left, right) for left, right in product(before, after))
    sides = [_distance(*side) for side in (before, after) if len(side) == 2]
    return across > _FAR and across > _RATIO * min(sides, default=0.0)


def _colours(pixels_HWC: npt.NDArray[np.uint8]) -> Colours:
    """What of a frame is compared: 16 points a side of each cell of a 4x4 grid, each channel sorted.

    Returns:
        (16 cells, 3 channels, 256 points), 0 to 255, whatever the frame's size.
    """
    count = _CELLS * _POINTS
    rows, columns = ((2 * np.arange(count) + 1) * side // (2 * count) for side in pixels_HWC.shape[:2])
    points = pixels_HWC[rows[:, None], columns].reshape(_CELLS, _POINTS, _CELLS, _POINTS, 3)
    return np.sort(points.transpose(0, 2, 4, 1, 3).reshape(_CELLS**2, 3, _POINTS**2)).astype(np.int16)


def _distance(left: Colours, right: Colours) -> float:
    """How far the colours in the cells of two frames are from each other, 0 to 255.

    As in A. Nagasaka, Y. Tanaka, "Automatic video indexing and full-video search for object appearances", 1991, the
    histograms of 16 cells are compared, and the cells that change most are left out (here a quarter), since what moves
    before the camera changes a part and a cut changes all. Here without bins: the mean difference of sorted values is
    the 1-Wasserstein distance of two histograms (G. Peyre, M. Cuturi, "Computational Optimal Transport", 2019, remark
    2.28). Points that are black in both frames, as bars are, do not count.
    """
    lit = np.count_nonzero(np.maximum(left, right) > _BLACK, axis=(1, 2))
    is_seen = lit > left[0].size // 4
    changes = np.sort(np.abs(left - right).sum(axis=(1, 2))[is_seen] / lit[is_seen])
    calm = changes[: len(changes) - len(changes) // 4]
    return float(calm.sum()) / max(len(calm), _LEAST_CELLS)
