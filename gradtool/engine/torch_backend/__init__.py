"""The GPU backend, in torch, which is imported only here and only when it is to compute."""
