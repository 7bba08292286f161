"""How well a model reconstructs videos: PSNR, SSIM, LPIPS and FVD, as the published figures are taken.

Shape suffixes: B batch, C channels, T frames, H height, W width.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from pipeline.decoding.options import DecodeOptions
from pipeline.errors import SampleError
from pipeline.flow import VideoDecoder
from pipeline.reconstruct import clips_to_frames
from pipeline.records import DecodedFrame, Frames, Video
from vidtok_model import VideoTokenizer
from vidtok_model.metrics import FrechetDistance, Lpips, psnr, ssim, video_features
from vidtok_model.preprocessing import prepare_frames
from vidtok_model.round_trip import chunk_frames, round_trip

__all__ = ["METRICS", "Evaluation", "Evaluator", "VideoScore"]

METRICS = ("psnr", "ssim", "lpips")


@dataclass(frozen=True, kw_only=True)
class VideoScore:
    """One video's figures.

    Attributes:
        name: its shard (of a tar) and key.
        num_frames: frames that were taken of it.
        clip_means: by metric, the mean over the frames of each clip that it was encoded as (one, where that was a
            stream). Copies that fill up the last clip count, as they do in the published figures.
        means: by metric, the mean of these.
        frame_psnrs: PSNR of each of its own frames, in dB.
        pictures: frames (H, W, 3) uint8, as they were and as they came back; of some videos only.
    """

    name: str
    num_frames: int
    clip_means: dict[str, list[float]]
    means: dict[str, float]
    frame_psnrs: list[float]
    pictures: list[tuple[Frames, Frames]]


@dataclass(kw_only=True)
class Evaluation:
    """All figures.

    Attributes:
        scores: of each video.
        failures: the names of others, and why they have none.
        fvd: over all clips, once all videos are through, or None.
        fvd_clips: how many clips it is over.
    """

    scores: list[VideoScore] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    fvd: float | None = None
    fvd_clips: int = 0

    def overall(self) -> dict[str, float]:
        """The mean over all clips of all videos, by metric, as published."""
        return {
            name: float(np.mean([value for score in self.scores for value in score.clip_means[name]]))
            for name in (self.scores[0].means if self.scores else ())
        }


class Evaluator:
    """Reconstructs videos and compares."""

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        *,
        size: int,
        sample: bool = False,
        seed: int = 42,
        lpips: Lpips | None = None,
        i3d: Any = None,
        num_pictured: int = 8,
    ) -> None:
        """Takes the model.

        Args:
            tokenizer: the model.
            size: pixels of the middle square that is evaluated.
            sample: whether to decode samples of a KL model's latents, as the published figures do, not the means.
            seed: of these samples.
            lpips: the network of LPIPS on the model's device, or None.
            i3d: the network of FVD on the model's device, or None.
            num_pictured: of how many videos to keep pictures.
        """
        self._tokenizer = tokenizer
        self._config = tokenizer.config
        self._device = next(tokenizer.parameters()).device
        self._size = size
        self._sample = sample
        self._generator = torch.Generator().manual_seed(seed)
        self._lpips = lpips
        self._i3d = i3d
        self._num_pictured = num_pictured
        self._fvd = FrechetDistance()

    def run(
        self, videos: Iterable[Video], decoder: VideoDecoder, *, fps: float, threads: int = 1
    ) -> Iterator[Evaluation]:
        """Evaluates video after video; yields the same Evaluation after each.

        Args:
            videos: as they were read.
            decoder: decodes them.
            fps: of a video, every max(1, round(its rate / fps))-th frame is taken, from its first on.
            threads: of a decoder.
        """
        evaluation = Evaluation()
        options = DecodeOptions(nearest_fps=fps, size=None, threads=threads)
        for video, frames in decoder.decode(videos, options):
            ref = video.ref
            name = ": ".join(part for part in (ref.source_shard, ref.key) if part not in ("", "."))
            try:
                if video.reject is not None:
                    raise SampleError(video.reject.stage, video.reject.error, video.reject.message)
                pictures = _Pictures() if len(evaluation.scores) < self._num_pictured else None
                features: list[tuple[torch.Tensor, torch.Tensor]] = []
                evaluation.scores.append(self._score(name, frames, pictures, features))
                for of_clip in features:  # only of a video that went well to its end
                    self._fvd.update(*of_clip)
            except SampleError as error:
                evaluation.failures.append((name, str(error)))
            evaluation.fvd_clips = self._fvd.reference.count
            yield evaluation
        if evaluation.fvd_clips > 1:
            evaluation.fvd = self._fvd.compute()

    def _score(
        self,
        name: str,
        frames: Iterable[DecodedFrame],
        pictures: "_Pictures | None",
        features: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> VideoScore:
        num_frames = 0

        def counted() -> Iterator[DecodedFrame]:
            nonlocal num_frames
            for frame in frames:
                num_frames += 1
                yield frame

        clips: list[dict[str, list[float]]] = []  # values of each frame, by metric
        held: torch.Tensor | None = None  # frames, given and decoded, that are too few for FVD yet
        chunks = self._chunks(counted())
        for pair in round_trip(chunks, self._tokenizer, sample=self._sample, generator=self._generator):
            given, decoded = pair[0].float(), pair[1].float().clamp(-1, 1)
            values = self._compare(given, decoded)
            if clips and self._config.version == "1.1":  # the whole video counts as one
                for metric, more in values.items():
                    clips[0][metric] += more
            else:
                clips.append(values)
            if self._i3d is not None:
                both = torch.stack([given, decoded])
                held = self._take_features(both if held is None else torch.cat([held, both], dim=3), features)
            if pictures is not None:
                pictures.offer(given, decoded)
        clip_means = {metric: [float(np.mean(clip[metric])) for clip in clips] for metric in clips[0]}
        return VideoScore(
            name=name,
            num_frames=num_frames,
            clip_means=clip_means,
            means={metric: float(np.mean(values)) for metric, values in clip_means.items()},
            frame_psnrs=[value for clip in clips for value in clip["psnr"]][:num_frames],
            pictures=pictures.chosen() if pictures is not None else [],
        )

    def _chunks(self, frames: Iterator[DecodedFrame]) -> Iterator[torch.Tensor]:
        """Clips (1, 3, T, size, size) of up to `chunk_frames` frames."""
        size = chunk_frames(self._config)
        while chunk := [frame.pixels_HWC for frame in islice(frames, size)]:
            if len({pixels_HWC.shape for pixels_HWC in chunk}) > 1:
                raise SampleError("decode", "unreadable", "its frames change their size")
            yield prepare_frames(torch.from_numpy(np.stack(chunk)).to(self._device), self._size)[None]

    @torch.no_grad()
    def _compare(self, given_BCTHW: torch.Tensor, decoded_BCTHW: torch.Tensor) -> dict[str, list[float]]:
        """The values of each frame, by metric."""
        compared = {"psnr": psnr(given_BCTHW, decoded_BCTHW), "ssim": ssim(given_BCTHW, decoded_BCTHW)}
        if self._lpips is not None:
            compared["lpips"] = self._lpips(given_BCTHW, decoded_BCTHW)
        return {metric: values_BT[0].tolist() for metric, values_BT in compared.items()}

    def _take_features(
        self, both_2BCTHW: torch.Tensor, features: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Adds I3D's features of clips, given and decoded, as many as there are; returns the frames that are left."""
        length = self._config.clip_frames
        while both_2BCTHW.shape[3] >= length:
            given, decoded = both_2BCTHW[:, :, :, :length]
            features.append((video_features(self._i3d, given), video_features(self._i3d, decoded)))
            both_2BCTHW = both_2BCTHW[:, :, :, length:]
        return both_2BCTHW


class _Pictures:
    """Frames from all over a video, whose length is not known before its end."""

    _MOST, _SHOWN = 16, 3

    def __init__(self) -> None:
        self._kept: list[tuple[Frames, Frames]] = []
        self._seen = 0
        self._stride = 1

    def offer(self, given_BCTHW: torch.Tensor, decoded_BCTHW: torch.Tensor) -> None:
        """Keeps the first frame of a chunk, or does not."""
        if self._seen % self._stride == 0:
            first, back = (clips_to_frames(clips[:, :, :1])[0, 0] for clips in (given_BCTHW, decoded_BCTHW))
            self._kept.append((first, back))
        self._seen += 1
        if len(self._kept) > self._MOST:
            self._kept = self._kept[::2]
            self._stride *= 2

    def chosen(self) -> list[tuple[Frames, Frames]]:
        """A few, evenly spread."""
        numbers = np.linspace(0, len(self._kept) - 1, min(self._SHOWN, len(self._kept))).round().astype(int)
        return [self._kept[number] for number in numbers]
