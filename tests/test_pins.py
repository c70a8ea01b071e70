"""What `make` installs is pinned with hashes, for every Python that is supported."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = re.compile(r"[A-Za-z0-9._-]+")


def name_of(requirement: str) -> str:
    found = NAME.match(requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def pins(name: str) -> dict[str, list[tuple[str, str, int]]]:
    """Name -> version, marker and number of hashes of every line."""
    found: dict[str, list[tuple[str, str, int]]] = {}
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8").strip()):
        head, *hashes = (line.strip().rstrip("\\").strip() for line in block.splitlines())
        requirement, _, marker = head.partition(" ; ")
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), head
        package, equals, version = requirement.partition("==")
        assert equals, head
        found.setdefault(name_of(package), []).append((version, marker, len(hashes)))
    return found


@pytest.mark.parametrize(
    ("file", "extras"), [("requirements.lock", ("build",)), ("requirements-test.lock", ("build", "docs", "test"))]
)
def test_every_dependency_is_pinned_with_hashes(file: str, extras: tuple[str, ...]) -> None:
    locked = pins(file)
    assert all(count for lines in locked.values() for _, _, count in lines)
    wanted = [*PROJECT["dependencies"], *(one for extra in extras for one in PROJECT["optional-dependencies"][extra])]
    assert {name_of(one) for one in wanted} <= set(locked)


def test_the_tests_have_the_versions_of_the_demo() -> None:
    demo, test = pins("requirements.lock"), pins("requirements-test.lock")
    assert {name: lines for name, lines in test.items() if name in demo} == demo


def test_no_line_names_where_a_package_comes_from() -> None:
    for file in ("requirements.lock", "requirements-test.lock"):
        assert not re.search(r"https?:|index-url|find-links|@ ", (ROOT / file).read_text(encoding="utf-8"))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the versions differ on Python 3.10")
def test_what_is_installed_here_is_what_is_pinned() -> None:
    for name, lines in pins("requirements-test.lock").items():
        versions = {version for version, marker, _ in lines if "< '3.11'" not in marker}
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:  # for another system or Python
            assert all(marker for _, marker, _ in lines), name
            continue
        assert installed in versions or name in ("pip", "setuptools"), name
