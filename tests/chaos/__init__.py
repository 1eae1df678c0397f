"""Parts are killed while they work; nothing that was acknowledged may be lost or done twice (EVENT-1, OPS-7)."""
