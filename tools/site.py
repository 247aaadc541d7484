"""For mkdocs: files of the repository that pages link to become pages of the site, so that every link leads somewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "sh", ".csv": "text", ".cff": "yaml"}


def outside(link: str, page: Path) -> Path | None:
    """The file or folder of the repository, but not of docs/, that a link of a page leads to, from its root; None for other links."""
    target = Path(os.path.normpath(page.parent / link))
    if not target.exists() or target.is_relative_to(ROOT / "docs") or not target.is_relative_to(ROOT):
        return None
    return target.relative_to(ROOT)


def linked(docs: Path) -> set[Path]:
    found = set()
    for page in docs.rglob("*.md"):
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        found |= {target for link, _ in LINK.findall(text) if (target := outside(link, page)) is not None}
    return found


def shown(target: Path) -> str:
    """A page with what a file holds, or what is in a folder."""
    path = ROOT / target
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if not p.name.startswith((".", "__")))
        return f"# {target}/\n\n" + "\n".join(f"- `{name}`" for name in inside) + "\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = LINK.sub("]", text.replace("![", "["))  # its own links lead elsewhere from here
        return re.sub(r"\[([^\]]+)\](?!\()", r"\1", text)
    return f"# {target}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"


def on_files(files: Any, config: Any) -> Any:
    for target in linked(Path(config.docs_dir)):
        files.append(File.generated(config, f"source/{target}.md", content=shown(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    if page.file.abs_src_path is None or page.file.src_uri.startswith("source/"):
        return markdown
    here = Path(page.file.abs_src_path)

    def moved(match: re.Match[str]) -> str:
        target = outside(match[1], here)
        if target is None:
            return match[0]
        to = os.path.relpath(Path(config.docs_dir) / "source" / f"{target}.md", here.parent)
        return f"]({to})"

    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in FENCE.split(markdown))
