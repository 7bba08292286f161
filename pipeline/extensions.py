"""What a name's extension says of a file."""

__all__ = ["OTHER_EXTENSIONS", "PICTURE_EXTENSIONS", "TEXT_EXTENSIONS", "VIDEO_EXTENSIONS"]

_VIDEO_EXTENSIONS = """
    264 265 3g2 3gp asf av1 avi divx dv f4v flv gif h264 h265 hevc ivf m1v m2p m2ts m2v m4v mjpeg mjpg mkv mov mp4 mpe
    mpeg mpg mpv mts mxf nut obu ogm ogv qt rm rmvb ts vob webm wmv wtv y4m
"""
VIDEO_EXTENSIONS = frozenset(_VIDEO_EXTENSIONS.split())
# Pictures lie beside videos, or are what there is: stills, and animated WebP.
PICTURE_EXTENSIONS = frozenset({"apng", "bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp"})
# What lies beside videos and is none. A member of any other kind is tried where no name says which is the video.
_OTHER = "aac cls flac m4a mp3 npy npz oga opus pickle pkl pt pth wav"
OTHER_EXTENSIONS = PICTURE_EXTENSIONS | frozenset(_OTHER.split())
TEXT_EXTENSIONS = frozenset({"cap", "caption", "json", "txt"})
