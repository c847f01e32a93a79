"""The two languages of the site: docs/zh/PAGE.md is docs/PAGE.md in Chinese, and each page links to the other one.

MkDocs calls the functions that begin with `on_` when it builds the site (mkdocs.yml). Chinese is marked as such in
every page, because browsers choose glyphs and voice by that.
"""

import re
from typing import Any

CHINESE = "zh/"
MENU = "中文"
"""The section of the menu in mkdocs.yml that holds the Chinese pages."""
GLOSSARY = "GLOSSARY.md"
"""A page in both languages, so it is in both menus."""
TAG_OR_HAN = re.compile(r"<[^>]*>|[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]+")


def on_page_context(context: Any, page: Any, config: Any, nav: Any) -> Any:
    """MkDocs' event: a page's menu is the one of its language, and `other` is the same page in the other language.

    A page that is in one language only leads to the other's home page.
    """
    pages = {p.file.src_uri: p for p in nav.pages}
    here = page.file.src_uri
    chinese = here.startswith(CHINESE)
    other = here.removeprefix(CHINESE) if chinese else CHINESE + here
    home = "index.md" if chinese else f"{CHINESE}index.md"
    sections = [item for item in nav if item.title == MENU]
    ours = [*sections[0].children, pages[GLOSSARY]]
    menu = ours if chinese else [item for item in nav if item not in sections]
    return {**context, "chinese": chinese, "other": pages.get(other) or pages[home], "menu": menu}


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs' event: Chinese words of a page in English are marked."""
    return html if page.file.src_uri.startswith(CHINESE) else marked(html)


def marked(html: str) -> str:
    """`<p title="书">一本 book</p>` -> `<p title="书"><span lang="zh-Hans">一本</span> book</p>`"""
    return TAG_OR_HAN.sub(lambda m: m[0] if m[0].startswith("<") else f'<span lang="zh-Hans">{m[0]}</span>', html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """MkDocs' event: a page in Chinese says so at its top."""
    if page.file.src_uri.startswith(CHINESE):
        return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1)
    return output
