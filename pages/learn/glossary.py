"""Every term of the app in a sentence or two, with the page that shows the thing itself."""

from __future__ import annotations

import streamlit as st

from core.learn.glossary import PAGE_NAMES, Term, groups, matching
from pages.ui import text
from pages.ui.links import link
from pages.ui.page import page


def draw(term: Term) -> None:
    """Its name, other words for it, and what it means."""
    others = (text.code(word) if "_" in word else text.escape(word) for word in term.also)  # as they are typed
    also = f" :gray[{', '.join(others)}]" if term.also else ""
    st.markdown(f"**{text.escape(term.name)}**{also}  \n{text.escape(term.about)}")


def draw_group(name: str, terms: tuple[Term, ...]) -> None:
    """The entries of a group, and the pages on which they are seen."""
    st.header(name, anchor=False)
    with st.container(border=True):
        with st.grid(2, min_column_width=280, gap="medium"):
            for term in terms:
                draw(term)
        with st.container(horizontal=True, vertical_alignment="center"):
            for page_file in dict.fromkeys(t.page for t in terms if t.page):
                link(page_file, PAGE_NAMES[page_file], ":material/open_in_new:")


with page("Glossary", "Every term of this app in a sentence or two. The same words stand behind the question marks."):
    asked = st.text_input("Search", key="term", placeholder="A word or an abbreviation", bind="query-params")
    found = matching(asked)
    if not found:
        st.info("Try fewer letters, or an abbreviation such as TTFT.", title="No entry has these words")
    for group, terms in groups(found).items():
        draw_group(group, terms)
