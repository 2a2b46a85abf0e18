"""DeepSpeed: checkpoints of ZeRO, written by itself, and read back with torch alone."""
