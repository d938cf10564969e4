"""Networks, boxes and tracks: arrays in, arrays out."""
