"""The engine on GPUs: torch, imported only here and only when it is to compute."""
