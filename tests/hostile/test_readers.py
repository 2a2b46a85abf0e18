"""Each reader over bytes that guided fuzzing found to reach most of its code.

Only an error of gradtool's may come of them; what is accepted can be measured.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.judging.readers import READERS

CORPUS = Path(__file__).parent / "corpus"

MOST_NBYTES = 400_000
"""Of the whole corpus, which is a part of the repository."""


@pytest.mark.parametrize("reader", READERS)
def test_nothing_but_an_error_of_gradtool_comes_of_any_bytes(reader: str) -> None:
    files = sorted((CORPUS / reader).iterdir())
    assert files
    for file in files:
        READERS[reader](file.read_bytes())


def test_the_corpus_is_small_and_of_the_readers_that_there_are() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == READERS.keys()
    assert sum(file.stat().st_size for file in CORPUS.glob("*/*")) < MOST_NBYTES
