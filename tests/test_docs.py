"""The documentation site: it builds, its reference is complete, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer
from typer.testing import CliRunner

from jobs.cli import app
from jobs.train_config import TrainingJob
from pipeline.config import JobConfig
from tests.support import ROOT, require_module

DOCS = ROOT / "infra/docs"
MARKDOWN = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(path for path in (ROOT / "infra").rglob("*.md") if DOCS / "pages" not in path.parents),
]


@dataclass
class Page(HTMLParser):
    """What a built page links to and loads, its anchors, and the text below each heading but the first."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        super().__init__()
        self._heading = ""
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if re.fullmatch(r"h[2-6]", tag) and "id" in given:
            self._heading = given["id"]
        if tag == "a":
            self.links += [given["href"]] if "href" in given else []
        else:
            self.loads += [given[name] for name in ("href", "src", "srcset", "data") if name in given]

    def handle_data(self, data):
        self.texts[self._heading] = self.texts.get(self._heading, "") + data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[str, Page]:
    for name in ("mkdocs", "material", "mkdocstrings"):
        require_module(name)
    folder = tmp_path_factory.mktemp("site")
    # Not with -q: it hides warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", DOCS / "mkdocs.yml", "-d", folder]
    built = subprocess.run(
        command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, cwd=folder, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}


def keys_of(schema: Any, node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each key's path and description, sections too."""
    if "$ref" in node:
        node = {**schema["$defs"][node["$ref"].rpartition("/")[2]], **node}
    members = [one for kind in ("anyOf", "allOf", "oneOf") for one in node.get(kind, [])]
    for inner in [*members, *([node["items"]] if "items" in node else [])]:
        yield from keys_of(schema, inner, path)
    for name, described in node.get("properties", {}).items():
        yield f"{path}{name}", described.get("description", "")
        yield from keys_of(schema, described, f"{path}{name}.")


def plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize(("page", "model"), [("job", JobConfig), ("training-job", TrainingJob)])
def test_every_key_of_a_job_file_is_described(site, page, model):
    schema = model.model_json_schema()
    keys = dict(keys_of(schema, schema))
    assert len(keys) > 50
    texts = site[f"reference/{page}.html"].texts
    assert keys.keys() == texts.keys() - {"", "top-level"}
    assert not [key for key, described in keys.items() if plain(described) not in plain(texts[key])]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def test_every_command_and_option_is_described(site, monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 300)  # so that no name is broken
    texts = site["reference/commands.html"].texts
    found = list(commands(typer.main.get_command(app)))
    assert {("tokenize",), ("export", "megatron")} < set(found)
    num_options = 0
    for path in found:
        text = texts["-".join(path)]
        shown = CliRunner().invoke(app, [*path, "--help"], color=False)
        assert shown.exit_code == 0
        options = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", shown.output)) - {"--help"}
        num_options += len(options)
        assert not [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)], path
    assert num_options > 100


def test_every_link_of_the_site_leads_somewhere(site):
    root = next(iter(site.values())).path.parent
    broken, followed = [], 0
    for page in site.values():
        for link in page.links + page.loads:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            base = root if target.path.startswith("/") else page.path.parent
            path = (base / unquote(target.path).lstrip("/")).resolve() if target.path else page.path
            path = path / "index.html" if path.is_dir() else path
            anchors = (
                site[path.relative_to(root).as_posix()].anchors if path.suffix == ".html" and path.exists() else ()
            )
            followed += 1
            if not path.exists() or (target.fragment and unquote(target.fragment) not in anchors):
                broken.append(f"{page.path.name}: {link}")
    assert followed > 500
    assert not broken


def test_the_site_loads_nothing_from_another_host(site):
    root = next(iter(site.values())).path.parent
    foreign = [f"{page.path.name}: {url}" for page in site.values() for url in page.loads if urlsplit(url).netloc]
    for sheet in root.rglob("*.css"):
        foreign += re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]+", sheet.read_text(encoding="utf-8"))
    assert any("main" in url and url.endswith(".css") for page in site.values() for url in page.loads)
    assert not foreign


def headings(path: Path) -> set[str]:
    """The anchors of a Markdown file, as forges make them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_links_between_the_repositorys_pages_lead_somewhere():
    broken, followed = [], 0
    for page in MARKDOWN:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            target = urlsplit(link)
            if target.scheme:
                continue
            path = page.parent / unquote(target.path) if target.path else page
            followed += 1
            if not path.exists() or (target.fragment and target.fragment not in headings(path)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert followed > 5
    assert not broken


def test_files_that_the_pages_name_are_there():
    name = re.compile(r"`((?:infra|jobs|pipeline|tests|vidtok_model)/[\w/.-]+\.\w+)`")
    pages = [*MARKDOWN, *(DOCS / "pages").glob("*.md")]
    named = [(page.name, path) for page in pages for path in name.findall(page.read_text(encoding="utf-8"))]
    assert len(named) > 50
    assert not [(page, path) for page, path in named if not (ROOT / path).exists()]
