"""Real S3 servers on free ports of this machine, and a proxy that misbehaves; each ended by its own pid."""
