"""Real checkpoints, written by the frameworks themselves, each beside what they hold in truth.

    python tests/writers/run.py DIRECTORY [LAYOUT ...]

`tests/fixtures/checkpoints` is what it wrote. A layout becomes a folder with `checkpoint`, which is
what the framework left behind, and `oracle.json` (see `oracles`). `loaders` reads the former back
as the framework does, and needs no other than torch.
"""
