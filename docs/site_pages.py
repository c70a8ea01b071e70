"""Hooks of the documentation site: pages from outside docs/, and links that work there as they do on a code host.

All pages are plain Markdown with relative links, which a code host shows as they are. Some of these links leave docs/:
README.md links to docs/metrics.md, and docs/pocket.md to ../datasets/pocket_data/SOURCES.md. The site therefore holds
every file of the repository that a page links to, and the links are rewritten to where the files are in the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from properdocs.config.defaults import ProperDocsConfig
from properdocs.structure.files import File, Files, InclusionLevel
from properdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parent.parent
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages outside docs/ that the navigation names."""
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")
"""The path in a relative link or picture: [text](path#anchor)."""


def site_name(path: str) -> str:
    """Return the name of a file in the site, as the navigation writes it, from its path in the repository."""
    if path == "README.md":
        return "index.md"
    if path.endswith(".py"):
        return f"{path}.md"  # source code becomes a page
    return path.removeprefix("docs/")


def linked(path: str, text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield every relative link of a page to an existing file, with the path of that file in the repository."""
    for match in LINK.finditer(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match["path"]))
        if not target.startswith("../") and (ROOT / target).is_file():
            yield match, target


def rewrite(path: str, text: str) -> str:
    """Return the text of a page with its relative links as they must be in the site."""
    parts, end = [], 0
    folder = posixpath.dirname(site_name(path)) or "."
    for match, target in linked(path, text):
        parts += [text[end : match.start()], posixpath.relpath(site_name(target), folder)]
        end = match.end()
    return "".join([*parts, text[end:]])


def outside_files(pages: list[str]) -> dict[str, bool]:
    """Return the files outside docs/ that belong to the site, and whether the navigation names them."""
    found = dict.fromkeys(OUTSIDE, True)
    waiting = [*pages, *OUTSIDE]
    while waiting:
        path = waiting.pop()
        for _, target in linked(path, (ROOT / path).read_text(encoding="utf-8")):
            if not target.startswith("docs/") and target not in found:
                found[target] = False
                if target.endswith(".md"):
                    waiting.append(target)
    return found


def code_style() -> str:
    """Return the colours of code, for light pages and for dark ones."""
    dark = HtmlFormatter(style="github-dark").get_style_defs("[data-bs-theme=dark] .codehilite")
    return f"{HtmlFormatter(style='default').get_style_defs('.codehilite')}\n{dark}\n.codehilite {{background: none}}\n"


def on_files(files: Files, config: ProperDocsConfig) -> Files:
    """Add what lies outside docs/ to the files of the site."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    for path, named in outside_files(pages).items():
        name = site_name(path)
        inclusion = InclusionLevel.INCLUDED if named else InclusionLevel.NOT_IN_NAV
        if path.endswith((".md", ".py")):
            text = (ROOT / path).read_text(encoding="utf-8")
            content = text if path.endswith(".md") else f"# {path}\n\n~~~~~~python\n{text}~~~~~~\n"
            added = File.generated(config, name, content=content, inclusion=inclusion)
        else:
            added = File.generated(config, name, abs_src_path=str(ROOT / path), inclusion=inclusion)
        files.append(added)
    files.append(File.generated(config, "code.css", content=code_style()))
    return files


def on_page_markdown(markdown: str, page: Page, config: ProperDocsConfig, files: Files) -> str:
    """Rewrite the links of a page."""
    for path in (*OUTSIDE, page.file.src_uri, f"docs/{page.file.src_uri}"):
        if site_name(path) == page.file.src_uri and (ROOT / path).is_file():
            return rewrite(path, markdown)
    return markdown
