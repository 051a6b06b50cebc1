"""From TIFF bytes to shards of small images, with every listed file accounted for."""
