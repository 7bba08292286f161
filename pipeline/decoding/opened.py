"""A video that is opened once: surveyed without decoding, then demuxed from wherever a span begins."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import IO

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.decoding.container import alpha_codec, duration_of, ffmpeg_log, opened_video, rate_of, source_of
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.timing import PacketTimes, Timeline
from pipeline.records import SourceInfo

__all__ = ["OpenedVideo"]

# Formats whose header lists every packet, so that one that is cut off is seen.
_LISTING_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2"}
# Formats whose header says when the last stream ends, so that one that ends well before is seen.
_TIMING_FORMATS = {"flv"}
# What Matroska's demuxer says of a file that is cut off.
_ENDED_EARLY = "File ended prematurely"
# WebM keeps alpha beside the frames, which FFmpeg's own decoders leave aside.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Formats that hold each packet's time, so that it is the same behind a seek; others have FFmpeg count on from the last.
_SEEKING_FORMATS = {"avi", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"}


class OpenedVideo:
    """One video; `survey` comes first.

    Attributes:
        source: what its container says.
        rate: frames a second by the container, or 0.
        seconds: its duration by the container, or None.
        packets: the times of all of them.
        promised: how many the container promises, where it does.
        is_cut: whether it breaks off before its end.
    """

    source: SourceInfo
    rate: Fraction
    seconds: float | None

    def __init__(self, file: IO[bytes], size_bytes: int, options: DecodeOptions) -> None:
        """Opens nothing yet.

        Args:
            file: the encoded video, seekable, at its beginning.
            size_bytes: its size, for messages.
            options: threads and limits.
        """
        self.packets: list[PacketTimes] = []
        self.promised = 0
        self.is_surveyed = False
        self._file = file
        self._size_bytes = size_bytes
        self._options = options
        self.is_cut = self._can_seek = self._has_times = False
        self._numbers: dict[int | None, int] = {}
        self._open = ExitStack()
        self._now: tuple[InputContainer, VideoStream] | None = None
        self._alpha_codec: VideoCodecContext | None = None
        self._is_used = False  # packets came out of it since it was opened

    def survey(self) -> None:
        """Finds out all that demuxing tells, which costs little.

        Raises:
            SampleError: `no_video`, `unreadable` or `limit`.
        """
        container, stream = self._opened()
        self.source, self.rate = source_of(stream), rate_of(stream)
        self.seconds = duration_of(container, stream)
        end, name = 0.0, container.format.name
        is_timed = name in _TIMING_FORMATS and bool(container.duration)
        with ffmpeg_log() as said:
            try:
                # All streams where that is needed only: PyAV stumbles over those that turn up later.
                for packet in container.demux() if is_timed else container.demux(stream):
                    if is_timed and packet.dts is not None and packet.time_base is not None:
                        end = max(end, float((packet.dts + (packet.duration or 0)) * packet.time_base))
                    if packet.stream is stream and packet.size:  # the last, empty one only says that there are no more
                        times = PacketTimes(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
                        self.packets.append(times)
            except (av.error.FFmpegError, IndexError):
                pass  # decoding meets it too, and says it
        self._can_seek = name in _SEEKING_FORMATS
        self._has_times = name != "avi"
        self.is_cut = any(message.startswith(_ENDED_EARLY) for _, _, message in said)
        if is_timed:
            promised = (container.duration or 0) / av.time_base
            self.is_cut |= end < promised - max(1.0, promised / 20)
        self.promised = stream.frames
        self._is_used = True
        if name == "avi" and len(self.packets) < self.promised:
            self.close()  # both would read the same file
            self.is_cut |= self._is_shorter_than_it_says()
        if name in _LISTING_FORMATS and len(self.packets) < self.promised:
            self.close()
            self.is_cut |= self._lacks_packets()
        self._numbers = {packet.pts: number for number, packet in enumerate(self.packets)}
        self.is_surveyed = True

    def _is_shorter_than_it_says(self) -> bool:
        """Whether a RIFF file has fewer bytes than its header says; its list of packets counts some that never were."""
        self._file.seek(0)
        header = self._file.read(8)
        return header[:4] == b"RIFF" and int.from_bytes(header[4:], "little") + 8 > self._size_bytes

    def _lacks_packets(self) -> bool:
        """Whether packets are missing that the header lists: those outside an edit list, which are left out, aside."""
        self._file.seek(0)
        everything = {"ignore_editlist": "1"}
        with opened_video(self._file, self._size_bytes, self._options, everything) as (container, stream):
            number = 0
            try:
                for packet in container.demux(stream):
                    number += bool(packet.size)
            except (av.error.FFmpegError, IndexError):
                pass  # as above
        return number < self.promised

    def holds(self, end_seconds: float | None) -> bool:
        """Whether the packets that are there go on beyond a time."""
        times = self.timeline().times()
        return end_seconds is not None and bool(times) and float(times[-1][0]) >= end_seconds

    def timeline(self) -> Timeline:
        """The times of its frames, none placed yet."""
        reorders = bool(self.stream.codec_context.has_b_frames)
        base = self.stream.time_base or Fraction(1)
        return Timeline(self.packets, base, self.rate, reorders=reorders, has_times=self._has_times)

    def trusted_packets(self) -> list[PacketTimes]:
        """Its packets; where all are called keys, as by containers that do not know, only the first is one."""
        if self.stream.codec_context.codec.intra_only or not all(packet.is_key for packet in self.packets):
            return self.packets
        return [packet._replace(is_key=number == 0) for number, packet in enumerate(self.packets)]

    @property
    def stream(self) -> VideoStream:
        """The stream to decode, of the container as it is open now."""
        return self._opened()[1]

    @property
    def codec(self) -> VideoCodecContext:
        """The decoder: FFmpeg's own, or the one that knows alpha, where the container says that there is some."""
        stream = self.stream
        if stream.metadata.get("alpha_mode") != "1" or stream.codec_context.name not in _ALPHA_DECODERS:
            return stream.codec_context
        if self._alpha_codec is None:
            self._alpha_codec = alpha_codec(_ALPHA_DECODERS[stream.codec_context.name], self._options)
        return self._alpha_codec

    def _opened(self) -> tuple[InputContainer, VideoStream]:
        if self._now is None:
            self._file.seek(0)
            opened = opened_video(self._file, self._size_bytes, self._options)
            self._now, self._is_used = self._open.enter_context(opened), False
        return self._now

    def all_packets(self) -> "Iterator[Packet[VideoStream]]":
        """All of them; a container that was read is opened anew, which no format fails to do."""
        if self._is_used:
            self.close()
        container, stream = self._opened()
        self._is_used = True
        return container.demux(stream)

    def packets_from(self, first: int, last: int | None = None) -> "Iterator[Packet[VideoStream]]":
        """The packets from one on that is not behind `first`, up to `last` or all; each packet must have its own time.

        Args:
            first: number of the first packet that is needed, a key.
            last: number of the last one.
        """
        for packet in self._behind_a_seek(first) or self.all_packets():
            yield packet
            if last is not None and packet.size and packet.pts == self.packets[last].pts:
                return

    def _behind_a_seek(self, first: int) -> "Iterator[Packet[VideoStream]] | None":
        """None where the format cannot seek, or did so wrongly."""
        if not self._can_seek:
            return None
        container, stream = self._opened()
        times = self.packets[first]
        target = times.pts if times.dts is None else times.dts
        assert target is not None, "each packet has its time"
        self._is_used = True
        try:
            container.seek(target, stream=stream)
            self.codec.flush_buffers()
            packets = container.demux(stream)
            head = next(packets)
        except (av.error.FFmpegError, StopIteration):
            return None
        is_there = head.size and self._numbers.get(head.pts, first + 1) <= first
        return itertools.chain([head], packets) if is_there else None

    def close(self) -> None:
        """Closes the container."""
        self._open.close()
        self._alpha_codec = None
        self._now = None
