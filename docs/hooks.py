"""What the site has beside the pages of this folder: README, changelog, and the reference of the package."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmseg_derprop'
ELSEWHERE = {'index.md': 'README.md', 'changelog.md': 'CHANGELOG.md'}  # pages that are files of the checkout's root
LINK = re.compile(r'(!?)\[([^]]*)\]\((?!https?://|#)([^)#]+)(#[^)]*)?\)|<img src="([^"]+)"')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation."""
    config.nav.append({'API': [f'api/{part.name}.md' for part in parts()]})
    return config


def parts() -> list[Path]:
    """The package's subpackages."""
    return sorted(path.parent for path in PACKAGE.glob('[a-z]*/__init__.py'))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages: those of the root, and one for each part of the package, of all its modules."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for part in parts():
        modules = sorted('.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in part.rglob('[a-z]*.py'))
        text = '\n'.join([f'# {part.name}\n', *(f'::: {module}\n' for module in modules)])
        files.append(File.generated(config, f'api/{part.name}.md', content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links fit the site; those to files that are no page of it become their text."""
    source = ELSEWHERE.get(page.file.src_uri, f'docs/{page.file.src_uri}')
    pages = {root: uri for uri, root in ELSEWHERE.items()}

    def replace(match: re.Match) -> str:
        image, text, path, anchor, picture = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path or picture))
        target = pages.get(target, target.removeprefix('docs/') if target.startswith('docs/') else '')
        if not target or files.get_file_from_path(target) is None:
            target = 'results/README.md' if target == 'results' else ''
        if not target:
            return text
        target = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')
        return f'<img src="{target}"' if picture else f'{image}[{text}]({target}{anchor or ""})'

    return LINK.sub(replace, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Removes the roles of Sphinx that docstrings have."""
    return re.sub(r':(?:attr|class|func|meth|mod):<code>', '<code>', html)
