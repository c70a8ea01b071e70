"""Makes docs/settings.md: every setting with type, default, allowed values and meaning.

python docs/settings_page.py
"""

from collections.abc import Iterable
from pathlib import Path

from bench.config import registry
from bench.config.fields import Setting, describe, show
from bench.config.run_settings import OpenClip, class_settings, run_settings
from bench.sweep.options import Options

PAGE = Path(__file__).parent / "settings.md"


def table(settings: Iterable[Setting]) -> list[str]:
    """One row a setting, as Markdown."""
    lines = ["| key | type | default | allowed | symbol | meaning |", "|---|---|---|---|---|---|"]
    for one in settings:
        default = show(one.default)
        cells = [f"`{one.key}`", one.type_name, f"`{default}`" if default else "", one.range, one.symbol, one.help]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def page() -> str:
    """The text of the page."""
    lines = [
        "# Settings",
        "",
        "Made by `python docs/settings_page.py`. How values are written: [running.md](running.md#run-a-method). "
        "Later layers win: these defaults, the method's, the "
        "stream's, what the stream tuned for the method, the command line "
        "([architecture.md](architecture.md#sources-of-a-value)).",
        "",
        "## Every run",
        "",
        *table(run_settings().values()),
        "",
        "## `sweep`",
        "",
        *table(describe(Options).values()),
    ]
    for kind in ("method", "stream", "model"):
        for name, entry in sorted(registry.entries(kind).items()):
            if entry.origin == "built-in":
                settings = describe(class_settings(registry.load_entry(entry)), f"{kind}.")
                lines += ["", f"## {kind} `{name}`", "", *(table(settings.values()) if settings else ["None."])]
    lines += ["", "## models of open_clip", "", *table(describe(OpenClip, "model.").values())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
