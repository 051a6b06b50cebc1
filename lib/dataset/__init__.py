"""Shards of encoded images, and the batches that one training worker draws from them."""
