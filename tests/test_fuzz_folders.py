"""Folders of images and lists of tasks that hold anything: read, or refused in one sentence."""

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from bench.datasets.tasks_file import KEYS as KEYS_OF_TASKS
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.fuzzing import tries

from bench.cli.main import main
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.runs.parts import load_stream

PIECES = [
    "train", "test", "val", "validation", "moss", "oak", "Ébène", "E\u0301be\u0300ne", "a b", ".hidden", "__MACOSX",
    "@eaDir", "0", "1.png", "2.jpg", "3.JPEG", "._1.png", "classes.txt", "metadata.csv", "metadata.jsonl",
    "own.csv", "notes.txt", "x" * 200, "\u202egnp", "new\nline",
]  # fmt: skip
TEXTS = st.binary(max_size=40) | st.sampled_from(
    [
        b"",
        b"\x00" * 9,
        b"\xff\xfem\x00",
        b"moss\noak\n",
        "\ufeffmoss\r\noak".encode(),
        b"label\n\n",
        b"path,label\ntrain/moss/1.png,moss\n",
        b"path,label,split\n../../etc/passwd,a,train\n",
        b"path,label\n1.png," + b"x" * 300,
        b"file_name;label\n1.png;moss\n",
        b'{"file_name": "1.png", "label": "moss"}\n',
        b'{"file_name": [',
    ]
)
KINDS = st.sampled_from(["image", "image", "image", "text", "folder", "link", "loop", "pipe", "unreadable"])
ENTRIES = st.lists(
    st.tuples(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), KINDS, TEXTS, st.integers(0, 20)), max_size=14
)
VALUES = st.sampled_from(
    [
        "own",
        "own/own.csv",
        "classes.txt",
        "plants",
        "dtd",
        "{}",
        "a {}",
        "",
        0,
        1,
        -1,
        0.2,
        1.5,
        True,
        None,
        [],
        ["a {}", "b {}"],
        {"a": 1},
        [[]],
        "../x",
    ]
) | st.text(max_size=6)
KEYS = st.sampled_from([*KEYS_OF_TASKS, "own", "odd"])
TASKS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4) | VALUES, max_size=4) | VALUES


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A tiny image."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (90, 10, 200)).save(stream, "PNG")
    return stream.getvalue()


def build(root: Path, entries: list, picture: bytes) -> None:
    """Make what can be made of the entries of a tree."""
    made = [root]
    for pieces, kind, text, pick in entries:
        path = root.joinpath("own", *pieces)
        with contextlib.suppress(OSError):
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(made[pick % len(made)])
            elif kind == "loop":
                path.symlink_to(path.parent)
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.write_bytes(picture if kind == "image" else text)
                if kind == "unreadable":
                    path.chmod(0)
            made.append(path)


def answered(words: list[str]) -> None:
    """`bench data` says what is there or what is wrong; and so does whoever reads the images."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(["data", "custom", *words])
    assert status in (0, 1, 2), status
    assert all(line.startswith("error: ") for line in errors.getvalue().splitlines()), errors.getvalue()
    assert output.getvalue() or errors.getvalue()
    with contextlib.suppress(UserError):
        for task in load_stream(resolve(["stream=custom", "method=zero-shot", *words])).tasks:
            for images in (task.train, task.test):
                for index in range(min(3, len(images))):
                    images.image(index)


@given(entries=ENTRIES, split=st.sampled_from([None, 0.5]))
@tries(60)
def test_a_folder_that_holds_anything_is_read_or_refused(picture: bytes, entries: list, split: float | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), entries, picture)
        more = [] if split is None else [f"stream.split={split}"]
        answered([f"data={folder}", "stream.datasets=[own]", *more])


@given(tasks=TASKS, entries=ENTRIES)
@tries(40)
def test_a_list_of_tasks_that_holds_anything_is_read_or_refused(picture: bytes, tasks: object, entries: list) -> None:
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), entries, picture)
        file = Path(folder) / "tasks.yaml"
        file.write_text(yaml.safe_dump(tasks, allow_unicode=True), encoding="utf-8")
        answered([f"data={folder}", f"stream.tasks_file={file}"])


@given(text=st.text(alphabet="- :{}[]&*!|>'\"#%@\n\tabc0.~", max_size=40), raw=st.binary(max_size=20))
@tries(40)
def test_any_bytes_are_a_list_of_tasks_or_a_sentence(text: str, raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tasks.yaml"
        file.write_bytes(text.encode() + raw)
        answered([f"data={folder}", f"stream.tasks_file={file}"])


CELLS = st.sampled_from(
    [
        "0.png",
        "1.png",
        "2.png",
        "./3.png",
        "moss",
        "oak",
        "train",
        "test",
        "VAL",
        "7",
        "07",
        "",
        " ",
        "../0.png",
        "/0.png",
    ]
) | st.text(max_size=5)
HEADERS = st.sampled_from(
    [["path", "label"], ["file_name", "label", "split"], ["label", "path", "path"], ["path", "label", "split", ""]]
)


@given(
    header=HEADERS,
    rows=st.lists(st.lists(CELLS, max_size=4), max_size=8),
    form=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
    separator=st.sampled_from(list(",;\t")),
    split=st.sampled_from([None, 0.5]),
)
@tries(60)
def test_a_table_that_holds_anything_is_read_or_refused(
    picture: bytes, header: list[str], rows: list[list[str]], form: str, separator: str, split: float | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4):
            (Path(folder) / f"{number}.png").write_bytes(picture)
        if form == ".jsonl":
            lines = [json.dumps(dict(zip(header, row, strict=False))) for row in rows]
        else:
            lines = [separator.join(row) for row in (header, *rows)]
        (Path(folder) / f"own{form}").write_bytes("\n".join(lines).encode(errors="surrogatepass"))
        more = [] if split is None else [f"stream.split={split}"]
        answered([f"data={folder}", f"stream.datasets=[own{form}]", *more])
