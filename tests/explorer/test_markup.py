"""Whatever is written in an atlas comes out as text."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from neurolab.explorer.markup import deviations, esc, href, link, notice, number, table
from tests.explorer.sample_atlas import HOSTILE

ANY_TEXT = st.one_of(st.text(max_size=60), st.text("<>\"'&;/=[]() \n\x00scriptonerror", max_size=60))


class Reader(HTMLParser):
    """What a browser makes of HTML: the elements with their attributes, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def clean(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


@given(ANY_TEXT)
def test_escaped_text_adds_no_element_and_no_attribute(text: str) -> None:
    seen = Reader(f'<p title="{esc(text)}">{esc(text)}</p>')
    assert seen.elements == [("p", {"title": clean(text)})]
    assert seen.text == clean(text)


@given(ANY_TEXT, ANY_TEXT)
def test_a_link_carries_its_parameters(site: str, text: str) -> None:
    seen = Reader(link(text, "unit", site=site, unit=7, none=None))
    ((tag, attributes),) = seen.elements
    address = attributes["href"] or ""
    asked = parse_qs(urlsplit(address).query, keep_blank_values=True)
    expected = {"page": ["unit"], "unit": ["7"]} | ({"site": [site]} if site else {})
    assert tag == "a" and set(attributes) == {"href", "target"}
    assert asked == expected
    assert seen.text == clean(text)


def test_the_reader_would_notice_an_injection() -> None:
    assert Reader(f"<p>{HOSTILE}</p>").elements != [("p", {})]


def test_messages_and_tables_escape_what_they_are_given() -> None:
    assert {tag for tag, _ in Reader(notice(HOSTILE, HOSTILE, [HOSTILE])).elements} == {
        "div",
        "h3",
        "p",
        "pre",
    }
    names = {tag for tag, _ in Reader(table([(HOSTILE, esc(HOSTILE))])).elements}
    assert names == {"table", "tbody", "tr", "th", "td"}


def test_an_address_leaves_out_what_is_not_set() -> None:
    assert href("units", site="a&b", sort="", text=None) == "?page=units&amp;site=a%26b"


def test_numbers_are_readable() -> None:
    shown = [number(value) for value in (12345, 0.000123456, 2.5, -2.0, 98765.4)]
    assert shown == ["12,345", "0.000123", "2.5", "−2", "98,765"]
    assert [deviations(value) for value in (12.34, -0.04, -1.26)] == ["12.3 sd", "0.0 sd", "−1.3 sd"]
