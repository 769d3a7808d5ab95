"""
Words in people's posts, Chinese and English.

A keyword is found where it stands between borders of words, so that 和服 (kimono) is not found in 产品和服务 (products and
services), yet 自驾 is found in 自驾游. Borders come from jieba's segmentation for search, whose words overlap.
"""

import re
import unicodedata
from dataclasses import dataclass

import rjieba

_SPACE = re.compile(r"\s+")
_CHINESE_OR_WORD = re.compile(r"[\u3400-\u9fff]|[a-z0-9]+")


def normal(text: str) -> str:
    """The text as it is compared: one form of each character (ＳＵＶ is SUV), lower case, single spaces."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def grams(text: str) -> set[str]:
    """What every post that contains `text` (normal) contains too: its Chinese characters and its words. Narrows a search."""
    return set(_CHINESE_OR_WORD.findall(text))


@dataclass(frozen=True, slots=True)
class Text:
    """A post's text, cut into words once. Bit n of `starts` says that a word starts at n; sets would take 20 times as much."""

    text: str
    starts: int
    ends: int

    @classmethod
    def of(cls, text: str) -> "Text":
        """Cut a text."""
        text = normal(text)
        starts, ends = bytearray(len(text) // 8 + 1), bytearray(len(text) // 8 + 1)
        for _, start, end in rjieba.tokenize(text, "search"):
            starts[start // 8] |= 1 << start % 8
            ends[end // 8] |= 1 << end % 8
        return cls(text, int.from_bytes(starts, "little"), int.from_bytes(ends, "little"))

    def shows(self, word: str) -> bool:
        """Whether `word` (normal) stands in the text between borders of words."""
        at = self.text.find(word)
        while at >= 0:
            if self.starts >> at & 1 and self.ends >> at + len(word) & 1:
                return True
            at = self.text.find(word, at + 1)
        return False
