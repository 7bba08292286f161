"""Interlaced frames made whole, by FFmpeg's bwdif; progressive ones are left as they are."""

from collections.abc import Iterator

import av.error
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

__all__ = ["deinterlaced", "is_interlaced"]

_FIRST_INTERLACED = 2  # FFmpeg's AVFieldOrder: 0 unknown, 1 progressive, from 2 on interlaced


def is_interlaced(stream: VideoStream) -> bool:
    """Whether the container or codec calls the stream interlaced."""
    return int(stream.codec_context.field_order) >= _FIRST_INTERLACED


def deinterlaced(frames: Iterator[VideoFrame], stream: VideoStream, flags: dict[str, None]) -> Iterator[VideoFrame]:
    """Yields one frame for each, with its own time; from the first interlaced one on they go through the filter.

    Args:
        frames: as decoded.
        stream: theirs.
        flags: gets `deinterlaced` where there was something to do.
    """
    graph: Graph | None = None
    form = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        flags["deinterlaced"] = None
        if graph is not None and form != (frame.width, frame.height, frame.format.name):
            yield from _drained(graph, stream)
            graph = None
        if graph is None:
            form = (frame.width, frame.height, frame.format.name)
            graph = _graph(stream, frame)
        graph.push(frame)
        yield from _ready(graph, stream)
    if graph is not None:
        yield from _drained(graph, stream)


def _graph(stream: VideoStream, frame: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _ready(graph: Graph, stream: VideoStream) -> Iterator[VideoFrame]:
    while True:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if frame.pts is not None and frame.time_base and stream.time_base:
            # The filter counts in fields.
            frame.pts = round(frame.pts * frame.time_base / stream.time_base)
            frame.time_base = stream.time_base
        yield frame


def _drained(graph: Graph, stream: VideoStream) -> Iterator[VideoFrame]:
    graph.push(None)
    yield from _ready(graph, stream)
