"""Words that hint at what a prompt wants; counted by group, one column each."""

from __future__ import annotations


def word_set(words: str) -> frozenset[str]:
    """Words apart by blanks."""
    return frozenset(words.split())


WORDS: dict[str, frozenset[str]] = {
    name: word_set(words)
    for name, words in {
        "add_words": "plus sum add added total altogether combined together both",
        "sub_words": "minus subtract difference left remaining remain remains less fewer lost gave spent",
        "mul_words": "times multiply multiplied product twice double doubled triple per each every",
        "div_words": "divide divided quotient half third quarter split equally ratio fraction share average",
        "percent_words": "percent percentage discount interest tax tip rate increase decrease profit",
        "compare_words": "more than less fewer greater larger smaller older younger taller longer",
        "time_words": "hour hours minute minutes day days week weeks month months year years age",
        "logic_words": "if then either neither or not unless suppose given assume implies therefore",
        "step_words": "first second then next after before finally while until again later",
        "proof_words": "prove derive show explain justify why reason analyse analyze compare discuss",
        "make_words": "write create generate compose draft design implement build story poem essay",
        "edit_words": "translate rewrite summarize summarise correct edit fix convert rephrase sort",
        "spell_words": "spell letter letters reverse backward backwards palindrome word anagram characters",
        "count_words": "count many number total amount much often",
        "code_words": "python function code class def return import sql javascript program script bug java",
        "format_words": "json yaml xml csv table list bullet markdown format html boxed latex",
        "limit_words": "only exactly just must without at most least maximum minimum never no",
        "choice_words": "choose option options following select which correct true false yes",
        "stop_words": "the of and to in is are a an that for it with on as was be",
    }.items()
}

GROUPS = tuple(WORDS)


def _columns() -> dict[str, tuple[int, ...]]:
    columns: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(GROUPS):
        for word in WORDS[name]:
            columns[word] = (*columns.get(word, ()), index)
    return columns


# word -> the groups it counts in: a prompt costs one look-up a word
COLUMNS_OF: dict[str, tuple[int, ...]] = _columns()
