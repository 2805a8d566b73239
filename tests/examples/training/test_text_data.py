"""The corpus is what a text says, and a batch depends on its key alone."""

import numpy as np


def test_decoding_undoes_encoding_and_leaves_unknown_characters_out():
    from text_data import python_topics

    corpus = python_topics()
    assert corpus.decode(corpus.encode("The assert statement")) == "The assert statement"
    assert corpus.decode(corpus.encode("a\x00b")) == "ab"


def test_the_two_parts_are_the_text():
    from pydoc_data.topics import topics

    from text_data import python_topics

    corpus = python_topics()
    both = corpus.decode(np.concatenate([corpus.training, corpus.held_out]))
    assert both == "\n\n".join(topics[name] for name in sorted(topics))
    assert len(corpus.training) > 8 * len(corpus.held_out) > 8 * 10_000


def test_windows_are_pieces_of_the_text_and_reach_its_end():
    from text_data import windows

    text = np.arange(10, dtype=np.int32)
    pieces = windows(text, (0, 1), 200, 7)
    assert pieces.shape == (200, 8)
    assert set(pieces[:, 0]) == {0, 1, 2}
    assert np.all(np.diff(pieces) == 1)
    assert np.array_equal(pieces, windows(text, (0, 1), 200, 7))
    assert not np.array_equal(pieces, windows(text, (0, 2), 200, 7))
