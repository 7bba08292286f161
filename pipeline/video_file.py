"""Video files that we write: H.264 frames at their own times, and a source's sound as it is."""

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import av
import av.error
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.records import Frames

# A time in seconds and the packet that is heard from then on; PyAV's types tell kinds of packets and streams apart, and
# what copies them need not.
Timed = tuple[Fraction, Any]

__all__ = ["Sound", "VideoWriter", "write_video"]

# By the ending of a file's name.
_FORMS = {"": "mp4", ".mp4": "mp4", ".m4v": "mp4", ".mkv": "matroska"}
# Fine enough for any frame time, and what MPEG itself uses.
_TIME_BASE = Fraction(1, 90_000)


class Sound:
    """The sound of a video file, as packets that another file can hold."""

    def __init__(self, file: IO[bytes]) -> None:
        """Opens a video's own file once more; there may be no sound in it."""
        self.stream: Any = None
        self._container: Any = None
        try:
            self._start = _first_frame_time(file)
            file.seek(0)
            self._container = av.open(file, "r")
        except (av.error.FFmpegError, ValueError):
            return  # as for the frames, which tell of it
        self.stream = self._container.streams.best("audio")

    def packets(self) -> Iterator[Timed]:
        """Yields the packets, each with its time in seconds from the video's first frame, from there on."""
        if self.stream is None:
            return
        try:
            for packet in self._container.demux(self.stream):
                if packet.pts is None or packet.dts is None or packet.time_base is None:
                    continue
                shift = round(self._start / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                if packet.pts >= 0 and packet.dts >= 0:
                    yield packet.pts * Fraction(packet.time_base), packet
        except av.error.FFmpegError:
            return  # it breaks off; the frames are judged by their own decoder

    def close(self) -> None:
        """Closes it."""
        if self._container is not None:
            self._container.close()


def _first_frame_time(file: IO[bytes]) -> Fraction:
    """When a video's first frame is shown, by its own clock; what a recording begins with may give no frame."""
    with av.open(file, "r") as container:
        for frame in container.decode(video=0) if container.streams.video else ():
            if frame.pts is not None and frame.time_base is not None:
                return frame.pts * Fraction(frame.time_base)
    return Fraction(0)


class VideoWriter:
    """Writes a video frame by frame, so that its length costs no memory."""

    def __init__(self, path: Path, *, sound: Sound | None = None) -> None:
        """Begins a file. What stands there under its name stays until the new one is whole.

        Args:
            path: a local file, in MP4; in Matroska where its name ends in .mkv.
            sound: what to put beside the frames, unchanged.

        Raises:
            ConfigError: the file cannot be written, is to be of another kind, or holds no sound of this kind.
        """
        form = _FORMS.get(path.suffix.lower())
        if form is None:
            raise ConfigError(f"--out {path}: expected a name that ends in .mp4 or .mkv")
        self._path, self._written = path, path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        self._cleanup = ExitStack()
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            file = self._cleanup.enter_context(self._written.open("wb"))
        except OSError as error:
            raise ConfigError(f"--out {path}: cannot be written: {error.strerror or error}") from None
        self._container = self._cleanup.enter_context(av.open(file, "w", format=form))
        self._stream: Any = self._container.add_stream("libx264", rate=30, options={"crf": "12"})
        self._stream.time_base = self._stream.codec_context.time_base = _TIME_BASE
        self._sound: Iterator[Timed] = iter(())
        if sound is not None and sound.stream is not None:
            try:
                self._sound_stream = self._container.add_stream_from_template(sound.stream)
            except ValueError as error:
                self._cleanup.close()
                self._written.unlink()
                more = "a file whose name ends in .mkv holds more kinds of sound, " if form == "mp4" else ""
                raise ConfigError(f"--out {path}: {error}; {more}--no-sound leaves it out") from None
            self._sound = sound.packets()
        self._next_sound = next(self._sound, None)
        self._shape: tuple[int, ...] | None = None

    def write(self, frame_HWC: Frames, seconds: float) -> None:
        """Adds a frame.

        Args:
            frame_HWC: uint8 RGB with even sides, of the first one's size.
            seconds: when it is shown, later than the one before, from the first one.
        """
        if self._shape is None:
            self._shape = frame_HWC.shape
            self._stream.height, self._stream.width = frame_HWC.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame.pts, frame.time_base = round(Fraction(seconds) / _TIME_BASE), _TIME_BASE
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:  # the encoder may be far behind the frames
            self._write_sound(until=packet.pts * _TIME_BASE)
            self._container.mux(packet)

    def _write_sound(self, until: Fraction | None) -> None:
        while self._next_sound is not None and (until is None or self._next_sound[0] <= until):
            _, packet = self._next_sound
            packet.stream = self._sound_stream
            self._container.mux(packet)
            self._next_sound = next(self._sound, None)

    def __enter__(self) -> Self:
        """Goes on until the block's end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Writes what is left and gives the file its name; where the block failed, nothing is left of it."""
        try:
            with self._cleanup:
                if kind is None and self._shape is not None:
                    self._mux(self._stream.encode())
                    self._write_sound(until=None)
            if kind is None:
                os.replace(self._written, self._path)
        finally:
            self._written.unlink(missing_ok=True)


def write_video(path: Path, frames_THWC: Frames, frame_seconds: npt.NDArray[np.float64]) -> None:
    """Writes frames as an H.264 mp4, each at its own time.

    Args:
        path: a local file; replaced where it exists.
        frames_THWC: uint8 RGB with even sides.
        frame_seconds: rising times, one for each frame.

    Raises:
        ConfigError: it cannot be written.
    """
    with VideoWriter(path) as writer:
        for frame_HWC, seconds in zip(frames_THWC, frame_seconds - frame_seconds[0], strict=True):
            writer.write(frame_HWC, float(seconds))
