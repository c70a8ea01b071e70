"""The model card of an exported checkpoint: what it is, how to load it, its numbers, where it comes from."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.config.values import GIVEN
from bench.metrics.kinds import FORGETTING, HEADLINES, LEARNING
from bench.reuse.load import Loaded

CARD = "README.md"
"""The name of the file; model hubs show it."""


MEANING = {
    LEARNING: """\
Accuracy in percent on test images, with the classifier of the method: Transfer on tasks before they were learned,
Average over all stages, Last after the last task.""",
    FORGETTING: """\
Accuracy in percent on test images, among all names: Forgotten on the classes of a request right after it, Relapse on
those of earlier ones, Retained on all that is to stay, Elsewhere on other data; H-mean of what requests took from
their classes and of Retained. Features may still tell apart what is no longer answered.""",
}
"""Kind of run -> what its numbers are."""


def card(used: Loaded, missing: str, vocabulary: bool) -> str:
    """Return the text of a model card.

    Parameters
    ----------
    used : Loaded
    missing : str
        What of the method is not in the weights, in a sentence; empty if nothing.
    vocabulary : bool
        Whether the tokenizer has a vocabulary of its own beside the weights.
    """
    run, cls = used.run, used.resolved.method_class
    paper = f" ({cls.paper})" if getattr(cls, "paper", "") else ""
    command = shlex.join(map(public, run.identity.command)) or "not recorded"
    prompts = list(next(iter(used.prompts.values()))[:3])
    tokenizer = ', bpe_path=f"{folder}/bpe.txt.gz"' if vocabulary else ""
    forgets = run.kind == FORGETTING
    does = "was asked to forget classes, in" if forgets else "learned"
    count = f"{len(used.prompts)} {'requests' if forgets else 'image-classification tasks'} one after another"
    return f"""\
---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
license: other
tags: [continual-learning, clip, keeplora-bench]
---
# {run.method} after {len(used.prompts)} {"requests" if forgets else "tasks"} of {run.stream}

A CLIP model, {run.model}, that {does} {count}:
{", ".join(used.prompts)}. {missing[:1].upper() + missing[1:] or "The weights are all that its classifier needs"}.

## Use

```python
import open_clip
import torch
from PIL import Image

folder = "."  # where this file lies
model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{{folder}}")
tokenizer = open_clip.get_tokenizer(f"local-dir:{{folder}}"{tokenizer})

prompts = {prompts}  # one for each class
image = preprocess(Image.open("image.png"))[None]
with torch.no_grad():
    images = model.encode_image(image, normalize=True)
    texts = model.encode_text(tokenizer(prompts), normalize=True)
    print((model.logit_scale.exp() * images @ texts.T).softmax(dim=-1))
```

## Numbers

{_numbers(used)}

{MEANING[run.kind]}

## Origin

| what | value |
|---|---|
| method | {run.method}{paper} |
| stream | {run.stream}, label space {run.identity.label_space}, seed {run.seed} |
| model before | {run.model}, weights {(run.identity.weights_sha256 or "unknown")[:16]} |
| command | `{command}` |
| code | {run.identity.code_revision} |
| settings | {_settings(used)} |

## Licence

The weights derive from those of {run.model} and from the images of {run.stream}: the licences of both apply. The code
of keeplora-bench, which trained them, is under Apache-2.0. Complete this section, and `license` above, before you
publish the model.
"""


def _numbers(used: Loaded) -> str:
    """Return the scalars and the last row of the matrix as tables."""
    run = used.run
    scalars = {title: run.summary.metrics.get(name) for title, name in HEADLINES[run.kind].items()}
    row = len(run.matrix.tasks)
    last = {name: run.matrix.cell(row, column).accuracy for column, name in enumerate(run.matrix.columns)}
    final = "request" if run.kind == FORGETTING else "task"
    return f"{_table(scalars)}\n\nAfter the last {final}, by test set:\n\n{_table(last)}"


def _table(values: dict[str, float | None]) -> str:
    cells = ["-" if value is None else f"{value:.1f}" for value in values.values()]
    return "\n".join("| " + " | ".join(row) + " |" for row in (list(values), ["---"] * len(cells), cells))


def public(word: str) -> str:
    """Return a word of a command line without the folders of this machine."""
    key, sign, value = word.rpartition("=")
    return f"{key}{sign}{Path(value).name}" if value.startswith("~") or Path(value).is_absolute() else word


def _settings(used: Loaded) -> str:
    """Return what the user set, as on the command line."""
    given = [f"`{public(f'{key}={used.run.settings[key]}')}`" for key, source in used.run.sources.items()
             if source in GIVEN and key.startswith(("method.", "train."))]  # fmt: skip
    return ", ".join(given) or "the defaults of method and stream"
