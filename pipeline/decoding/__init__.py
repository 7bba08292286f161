"""From the bytes of a video to sampled, upright, RGB frames, in child processes that may hang or die."""
