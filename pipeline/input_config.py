"""The part of a job file that says where the videos are."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.storage import absolute_url
from pipeline.video_config import Section

__all__ = ["ColumnsConfig", "InputConfig", "InputKind"]

InputKind = Literal["shards", "videos", "manifests"]
Patterns = Annotated[str | list[str], Field(min_length=1)]


class ColumnsConfig(Section):
    """What the columns of a manifest are called; all others are metadata."""

    url: str = Field(default="url", description="Where the video lies: a URL, or a path from the manifest's folder.")
    id: str = Field(
        default="id", description="Names the row's video (source_key); its URL and span, where there is none."
    )
    caption: str = Field(default="caption", description="Of the video.")
    start_seconds: str = Field(default="start_seconds", description="Where the wanted span begins.")
    end_seconds: str = Field(default="end_seconds", description="Where the wanted span ends.")


class InputConfig(Section):
    """The videos: in tars (`shards`), as files (`videos`), or listed in tables (`manifests`)."""

    shards: Patterns | None = Field(
        default=None,
        description="WebDataset tars: a path, a brace pattern (data/{000..127}.tar), a glob, a folder or a prefix "
        "(s3://bucket/prefix/), plain links (https://host/{000..127}.tar, without a query, from a server that says "
        "sizes), or a list of these.",
    )
    videos: Patterns | None = Field(
        default=None,
        description="Video files, by the same kinds of patterns. Text of the same name lies beside: .txt, .json ...",
    )
    manifests: Patterns | None = Field(
        default=None,
        description="Parquet, CSV, TSV or JSONL files, each row of which names a video, or a span of one.",
    )
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig, description="Names of the manifests' columns.")
    videos_per_shard: int = Field(
        default=256,
        gt=0,
        description="Videos or spans of a shard, where they are files or listed in manifests; spans of one video stay "
        "together.",
    )

    @property
    def kind(self) -> InputKind:
        """How the videos are given."""
        return "shards" if self.shards is not None else "videos" if self.videos is not None else "manifests"

    @property
    def patterns(self) -> list[str]:
        """Where they are."""
        given = getattr(self, self.kind)
        return [given] if isinstance(given, str) else list(given)

    @field_validator("shards", "videos", "manifests", mode="before")
    @classmethod
    def _is_patterns(cls, given: object) -> object:
        # Said here in one line; pydantic has one for each member of the union.
        is_list = isinstance(given, list) and all(isinstance(pattern, str) for pattern in given)
        if not (given is None or isinstance(given, str) or is_list):
            raise ValueError(f"expected a pattern or a list of patterns, found {given!r}")
        return given

    @field_validator("shards", "videos", "manifests")
    @classmethod
    def _absolute(cls, given: str | list[str] | None) -> str | list[str] | None:
        # Workers may run in other folders.
        if given is None:
            return None
        return absolute_url(given) if isinstance(given, str) else [absolute_url(pattern) for pattern in given]

    @model_validator(mode="after")
    def _check(self) -> "InputConfig":
        given = [name for name in ("shards", "videos", "manifests") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of shards, videos and manifests, found {' and '.join(given) or 'none'}")
        return self
