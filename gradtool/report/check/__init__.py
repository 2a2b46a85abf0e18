"""Reports of `check`, and what `rules`, `explain` and `baseline` print."""
