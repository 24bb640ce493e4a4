"""What the pages point at is there: other pages, their headings, files and functions."""

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted(p for p in REPO.rglob("*.md") if not {".venv", "runs", "site"} & set(p.relative_to(REPO).parts))


def headings(page):
    """The anchors that headings get: lower case, without punctuation, hyphens for spaces."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def defined(path):
    """Names of functions and classes in a file, methods as ``Class.method``."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names |= {node.name, *(f"{node.name}.{n.name}" for n in ast.walk(node) if isinstance(n, ast.FunctionDef))}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_to_pages(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        other = (page.parent / target) if target else page
        assert other.exists(), target
        assert not anchor or anchor in headings(other), f"{target}#{anchor}"


def test_functions_of_the_architecture():
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", (REPO / "docs/architecture.md").read_text())
    assert len(named) > 30
    for file, name in named:
        path = REPO / file if file.startswith("export/") else REPO / "a2net_tf" / file
        assert name in defined(path), f"{file}:{name}"


# --- the site


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason='pip install ".[docs]" in the checkout')
def test_the_site_is_built_strictly(tmp_path):
    """A link, an anchor or a docstring that cannot be found ends the command."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {str(p.parent.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("index.html")}
    assert {".", "docs/tour", "docs/api", "docs/tasks/sensors", "datasets/hapt", "export/serving"} <= pages
    assert "seconds_per_step" in (tmp_path / "site/docs/api/index.html").read_text()
    assert (tmp_path / "site/search/search_index.json").stat().st_size > 100_000
    loaded = r"""<(?:script|link|img)[^>]+(?:src|href)=["']?https?://(?!github)[^"'> ]+"""
    for page in (tmp_path / "site").rglob("index.html"):  # a reader's browser asks nobody else
        assert not [tag for tag in re.findall(loaded, page.read_text()) if "canonical" not in tag], page
