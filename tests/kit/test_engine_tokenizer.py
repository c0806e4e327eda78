"""Tokens to text as they come, whatever is incomplete; stop strings, however the text is cut."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_testkit.engine.tokenizer import END_OF_TEXT, Bytes, StopMatcher


def shown(ids: tuple[int, ...]) -> list[str]:
    detokenizer = Bytes().detokenizer()
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


def test_a_token_is_a_byte_of_utf8() -> None:
    assert Bytes().encode("aé") == (97, 195, 169)
    assert Bytes().encode("") == ()
    assert Bytes().decode((97, 195, 169)) == "aé"


def test_marks_have_no_text() -> None:
    assert Bytes().decode((258, 104, 105, 259, END_OF_TEXT)) == "hi"
    assert Bytes().ends == {END_OF_TEXT}


def test_what_utf8_cannot_hold_becomes_a_question_mark() -> None:
    assert Bytes().encode("a\ud800") == (97, 63)


def test_a_chat_marks_each_message_and_asks_for_the_assistants() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert Bytes().chat(messages) == (257, 83, 258, 85, 259)
    assert Bytes().chat([{"role": "developer", "content": "S"}]) == (257, 83, 259)
    assert Bytes().chat([{"role": "assistant", "content": "A"}]) == (259, 65, 259)
    with pytest.raises(ValueError, match="role 'robot'; choose of system, user, assistant"):
        Bytes().chat([{"role": "robot", "content": ""}])


def test_a_character_is_shown_when_its_last_byte_has_come() -> None:
    assert shown((97, 0xE2, 0x82, 0xAC, 98)) == ["a", "", "", "€", "b", ""]


def test_a_broken_character_is_shown_as_such() -> None:
    assert shown((0xE2, 0x82, 97)) == ["", "", "\ufffda", ""]
    assert shown((97, 0xF0, 0x9F)) == ["a", "", "", "\ufffd"]


def test_a_mark_within_a_character_adds_nothing() -> None:
    assert shown((0xC3, END_OF_TEXT, 0xA9)) == ["", "", "é", ""]


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(st.integers(0, 259), max_size=30).map(tuple))
def test_pieces_together_are_the_whole_text(ids: tuple[int, ...]) -> None:
    assert "".join(shown(ids)) == Bytes().decode(ids)


def stopped_text(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    matcher = StopMatcher(stops)
    out = [matcher.push(piece) for piece in pieces]
    return [*out, matcher.flush()], matcher.stopped


def test_the_text_ends_before_the_stop_string() -> None:
    assert stopped_text(("END",), ["one ", "END", " two"]) == (["one ", "", "", ""], True)
    assert stopped_text(("END",), ["a", "E", "N", "D"]) == (["a", "", "", "", ""], True)
    assert stopped_text(("END",), ["abENDcd"]) == (["ab", ""], True)


def test_the_start_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    assert stopped_text(("END",), ["aE", "N", "x"]) == (["a", "", "ENx", ""], False)
    assert stopped_text(("END",), ["aEN"]) == (["a", "EN"], False)
    assert stopped_text(("aab",), ["a", "a", "a", "b"]) == (["", "", "a", "", ""], True)


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert stopped_text((), ["a", "b"]) == (["a", "b", ""], False)


def test_the_stop_string_that_is_complete_first_ends_the_text() -> None:
    assert stopped_text(("abcd", "bc"), ["abcd"]) == (["a", ""], True)
    assert stopped_text(("abcd", "bc"), ["a", "b", "c", "d"]) == (["", "", "a", "", ""], True)
    assert stopped_text(("c", "abc"), ["xabc"]) == (["x", ""], True)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        StopMatcher(["a", ""])


def until_the_first_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The oracle: the text grows by a character at a time until it ends with a stop string."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple),
    st.lists(st.text("abc", max_size=4), max_size=6),
)
def test_how_the_text_is_cut_does_not_matter(stops: tuple[str, ...], pieces: list[str]) -> None:
    out, stopped = stopped_text(stops, pieces)
    assert ("".join(out), stopped) == until_the_first_stop("".join(pieces), stops)


def test_tokens_need_no_torch() -> None:
    check = "import sys, pd_testkit.engine.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
