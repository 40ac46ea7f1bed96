"""No page breaks a rule of accessibility that axe-core calls serious or critical. `make axe` looks at all widths."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser import axe
from tests.browser.conftest import Server

pytestmark = pytest.mark.browser


def test_no_page_has_a_serious_fault(server: Server, browser: Any) -> None:
    """Every page once, and what stands deeper in some: a third of them at each width."""
    axe.filled(server.home / "data")
    titles, wrong = list(axe.addresses()), []
    for turn, (width, theme) in enumerate(((390, "dark"), (820, "light"), (1440, "dark"))):
        page = axe.context(browser, width, theme)
        axe.show(page, server, "Run")
        for title in titles[turn::3]:
            axe.turn_to(page, title)
            wrong += [f"{title}, {width} px, {theme}: {f.rule} at {f.where}: {f.why}" for f in axe.findings(page)]
        for name, (title, query) in list(axe.DEEPER.items())[turn::3]:
            axe.show(page, server, title, **query)
            wrong += [f"{name}, {width} px, {theme}: {f.rule} at {f.where}: {f.why}" for f in axe.findings(page)]
        page.context.close()
    assert not wrong, "\n".join(wrong)


def test_axe_is_heard(browser: Any) -> None:
    page = axe.context(browser, 820, "light")
    page.set_content("<html lang=en><title>t</title><main><h1>h</h1><button></button></main></html>")
    assert [(f.rule, f.impact) for f in axe.findings(page)] == [("button-name", "critical")]
    page.set_content("<html lang=en><title>t</title><main><h1 style='width: 900px'>h</h1></main></html>")
    assert [f.rule for f in axe.findings(page)] == ["reflow"], "it is wider than 820 pixels"
    page.set_content(
        "<html lang=en><title>t</title><main><h1>h</h1><h3>in llama_cpp, <code>llama_cpp</code></h3></main></html>"
    )
    assert [f.rule for f in axe.findings(page)] == ["heading-order", "code-name"]
    page.context.close()
