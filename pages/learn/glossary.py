"""Every term of the app in a sentence or two, with the page that shows the thing itself."""

from __future__ import annotations

import streamlit as st

from core.learn.glossary import Term, groups, matching
from pages.ui import text
from pages.ui.links import link
from pages.ui.page import page


def draw(term: Term) -> None:
    """Its name, other words for it, what it means, and where it is seen."""
    st.markdown(f"**{text.escape(term.name)}**" + (f" :gray[{text.escape(', '.join(term.also))}]" if term.also else ""))
    st.markdown(text.escape(term.about))
    if term.page:
        link(term.page, "Where it is shown", ":material/open_in_new:")


with page("Glossary", "Every term of this app in a sentence or two. The same words stand behind the question marks."):
    asked = st.text_input("Search", key="term", placeholder="A word or an abbreviation", bind="query-params")
    found = matching(asked)
    if not found:
        st.info("Try fewer letters, or an abbreviation such as TTFT.", title="No entry has these words")
    for group, terms in groups(found).items():
        st.subheader(group, anchor=False)
        with st.grid(3, min_column_width=280):
            for term in terms:
                with st.container(border=True, height="stretch"):
                    draw(term)
