"""
Words in people's posts, Chinese and English.

A keyword is found where it stands between borders of words, so that 和服 (kimono) is not found in 产品和服务 (products and
services), yet 自驾 is found in 自驾游. Borders come from jieba's segmentation for search, whose words overlap.
"""

import re
from dataclasses import dataclass

import rjieba

_SPACE = re.compile(r"\s+")
_CHINESE_OR_WORD = re.compile(r"[\u3400-\u9fff]|[a-z0-9]+")


def normal(text: str) -> str:
    """The text as it is compared: lower case, single spaces."""
    return _SPACE.sub(" ", text.casefold()).strip()


def grams(text: str) -> set[str]:
    """What every post that contains `text` (normal) contains too: its Chinese characters and its words. Narrows a search."""
    return set(_CHINESE_OR_WORD.findall(text))


@dataclass(frozen=True, slots=True)
class Text:
    """A post's text, cut into words once."""

    text: str
    starts: frozenset[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, text: str) -> "Text":
        """Cut a text."""
        text = normal(text)
        words = rjieba.tokenize(text, "search")
        return cls(text, frozenset(start for _, start, _ in words), frozenset(end for _, _, end in words))

    def shows(self, word: str) -> bool:
        """Whether `word` (normal) stands in the text between borders of words."""
        at = self.text.find(word)
        while at >= 0:
            if at in self.starts and at + len(word) in self.ends:
                return True
            at = self.text.find(word, at + 1)
        return False
