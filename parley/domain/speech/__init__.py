"""Text for the ear: what a voice should say instead of a text that was written to be read.

A model writes Markdown, links, sums, prices and emoji. A voice reads them aloud: "asterisk asterisk", "h t t p s". Two
filters in a row prevent it, and work on a text that arrives in pieces: `markup` removes the marks and makes sentences
of lists and tables, `reading` writes numbers, money, dates, times, links and telephone numbers as they are said.

What is said in English is written out for English. Of other languages only what every voice reads wrong is changed.
"""

from parley.domain.speech.heard import words_as_heard
from parley.domain.speech.spoken import SpokenText, spoken

__all__ = ["SpokenText", "spoken", "words_as_heard"]
