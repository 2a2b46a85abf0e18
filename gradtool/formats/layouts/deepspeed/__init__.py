"""DeepSpeed: ZeRO's checkpoints, in which each rank has flat pieces of parameters, and others."""
