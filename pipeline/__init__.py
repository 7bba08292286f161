"""From shards of videos to committed rows of tokens or latents: everything between storage and the encoder."""
