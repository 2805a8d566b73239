"""The corpus of the text programs: the language reference that comes with every Python."""

from dataclasses import dataclass
from pydoc_data import topics

import numpy as np


@dataclass(frozen=True)
class Corpus:
    """A text as numbers of characters.

    Attributes:
      characters: every character of the text, each once, in order; a token is a position in it.
      training: the tokens of the first nine tenths, int32 (n,).
      held_out: the tokens of the rest, int32 (m,).
    """

    characters: str
    training: np.ndarray
    held_out: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int32; characters that the corpus lacks are left out."""
        number = {character: i for i, character in enumerate(self.characters)}
        return np.array([number[c] for c in text if c in number], np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens (n,)."""
        return "".join(self.characters[int(token)] for token in tokens)


def python_topics() -> Corpus:
    """Python's own help texts (``pydoc_data.topics``): about 465,000 characters in Python 3.11."""
    text = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    corpus = Corpus("".join(sorted(set(text))), np.empty(0, np.int32), np.empty(0, np.int32))
    tokens = corpus.encode(text)
    cut = len(tokens) * 9 // 10
    return Corpus(corpus.characters, tokens[:cut], tokens[cut:])


def windows(tokens: np.ndarray, key: tuple[int, ...], batch: int, length: int) -> np.ndarray:
    """Pieces of a text at random places: int32 (batch, length + 1), the same for the same key.

    Args:
      tokens: the text, int32 (n,).
      key: non-negative numbers that the places depend on, such as the seed and the step.
      batch: how many pieces.
      length: how many tokens of each piece are read; the last one is only predicted.
    """
    starts = np.random.default_rng(key).integers(0, len(tokens) - length, batch)
    return tokens[starts[:, None] + np.arange(length + 1)]
