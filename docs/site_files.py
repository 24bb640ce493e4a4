"""Which files the site is made of, as a hook of mkdocs: pages of the whole repository, under their own paths.

So a link works in the checkout, on a code host and on the site. A link to a folder leads to its README or its code.
"""

import pathlib
import re

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("*.md", "docs/**/*.md", "docs/*.ipynb", "datasets/*/README.md", "export/**/*.md")
_LINK = re.compile(r"(\]\()(?!\w+:)([^)#\s]+)((?:#[^)\s]*)?\))")


@event_priority(100)  # before the plugin that makes pages of notebooks
def on_files(files: Files, config) -> Files:
    """The pages, what they link to, and nothing else that lies in docs/."""
    pages = sorted({path for pattern in PAGES for path in ROOT.glob(pattern) if path.is_file()})
    linked = {target for page in pages if page.suffix == ".md" for target in _targets(page)}
    names = [path.relative_to(ROOT).as_posix() for path in sorted({*pages, *linked})]
    return Files([File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in names])


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page with links to files in place of folders."""
    folder = (ROOT / page.file.src_uri).parent

    def to_file(match: re.Match) -> str:
        target = folder / match[2]
        return f"{match[1]}{match[2].rstrip('/')}/{_of_folder(target).name}{match[3]}" if target.is_dir() else match[0]

    return _LINK.sub(to_file, markdown)


def _targets(page: pathlib.Path) -> list[pathlib.Path]:
    targets = [(page.parent / target).resolve() for _, target, _ in _LINK.findall(page.read_text())]
    return [_of_folder(target) if target.is_dir() else target for target in targets if target.exists()]


def _of_folder(folder: pathlib.Path) -> pathlib.Path:
    """What a reader of a folder looks at first."""
    names = ("README.md", "__init__.py")
    found = [folder / name for name in names if (folder / name).exists()]
    return (found or sorted(path for path in folder.iterdir() if path.is_file()))[0]
