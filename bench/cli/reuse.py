"""``evaluate``, ``probe``, ``export``, ``analyse``: use the model of a finished run, or look into any model."""

from __future__ import annotations

from bench.cli.verb import Verb
from bench.config.words import split
from bench.core.errors import UserError


def call_evaluate(words: list[str]) -> int:
    """Measure what a run learned on a stream."""
    run, settings = _run_and_settings(words, "evaluate RUN stream=NAME data=DIR")
    from bench.reuse.evaluate import evaluate  # torch comes with it

    evaluate(run, settings, ["python", "-m", "bench", "evaluate", *words])
    return 0


def call_probe(words: list[str]) -> int:
    """Measure by a linear probe what the image features of a run hold."""
    run, settings = _run_and_settings(words, "probe RUN data=DIR")
    from bench.reuse.probe import probe  # torch comes with it

    probe(run, settings)
    return 0


def call_export(words: list[str]) -> int:
    """Write an open_clip checkpoint of what a run learned."""
    places = [word.partition("=")[2] for word in words if word.startswith(PLACE)]
    if len(places) != 1 or not places[0]:
        raise UserError("say where the checkpoint should go, once: python -m bench export RUN to=DIR")
    run, settings = _run_and_settings([word for word in words if not word.startswith(PLACE)], "export RUN to=DIR")
    from bench.reuse.export import export  # torch comes with it

    export(run, places[0], settings)
    return 0


def call_analyse(words: list[str]) -> int:
    """Measure a model, or what a finished run learned, part by part."""
    from bench.analysis.options import subject  # the registry comes with it: see bench.cli.verb

    pairs, plain = split(words, paths=True)
    if len(plain) > 1:
        raise UserError(f"give one run directory at most, not {len(plain)}: python -m bench analyse RUN")
    run, settings = plain[0] if plain else None, [one.word for one in pairs]
    subject(run, settings)  # a mistake must not wait for torch
    from bench.analysis.analyse import analyse  # torch comes with it

    analyse(run, settings, ["python", "-m", "bench", "analyse", *words])
    return 0


def _words_of_analyse() -> str:
    """Return the words of ``analyse`` with their defaults."""
    from bench.analysis.options import Options
    from bench.config.fields import describe, show
    from bench.core.tables import table

    rows = [(f"{key}={show(one.default)}", one.help) for key, one in describe(Options).items()]
    return table(("word and default", "meaning"), rows)


PLACE = ("to=", "--to=")
"""How the word of ``export`` begins that is no setting."""


def _run_and_settings(words: list[str], usage: str) -> tuple[str, list[str]]:
    """Separate the run directory from the settings, and check both: a mistake must not wait for torch."""
    from bench.reuse.recorded import finished_run, settings_again  # the registry comes with it: see bench.cli.verb

    pairs, plain = split(words, paths=True)
    if len(plain) != 1:
        raise UserError(f"give one run directory, not {len(plain)}: python -m bench {usage}")
    settings = [one.word for one in pairs]
    settings_again(finished_run(plain[0]), settings)
    return plain[0], settings


EVALUATE = Verb(
    name="evaluate",
    summary="measure the model of a finished run on any stream or folder",
    usage="evaluate RUN [stream=NAME] [data=DIR] [KEY=VALUE...]",
    help="""\
Classifies the test images of a stream as the method does after its last task, and writes a record to
OUT/<stream>/<model>/<method>/ (out=evaluations), which compare reads like that of a run. Without stream= it measures
the run's own stream and says whether every answer is that of its last row. The run itself is not changed. Settings:
stream and stream.KEY, data, device, threads, precision, evaluate.KEY, cache.KEY, out; model.checkpoint=FILE where the
weights lie elsewhere now, and method=FILE, model=FILE likewise.

examples
  python -m bench evaluate runs/pocket/pocket/lora/0123456789-s0
  python -m bench evaluate runs/pocket/pocket/lora/0123456789-s0 stream=custom stream.datasets=[plants] data=/data
  python -m bench compare evaluations
""",
    call=call_evaluate,
)

PROBE = Verb(
    name="probe",
    summary="measure by a linear probe what the image features of a finished run hold",
    usage="probe RUN [data=DIR] [KEY=VALUE...]",
    help="""\
Fits a logistic regression to the image features of the training images of the run's stream, and classifies the test
images with it: with the weights that the run began with, with those that it ended with, and with plain pixels. Beside
it stand the accuracies of the text classifier, from the record. After a stream of requests to forget it tells whether
what was forgotten is gone from the features, or only hidden from the text classifier. The table is printed and written
to OUT/<stream>/<model>/<method>/<fingerprint>-s<seed>/probe.csv (out=evaluations). The run is not changed. Settings:
data, device, threads, precision, evaluate.batch_size, cache.KEY, out; model.checkpoint=FILE where the weights lie
elsewhere now, and method=FILE, model=FILE, stream=FILE likewise.

example
  python -m bench probe runs/forget-pocket/pocket/gs-lora/0123456789-s0
""",
    call=call_probe,
)

EXPORT = Verb(
    name="export",
    summary="write the model of a finished run as an open_clip checkpoint",
    usage="export RUN to=DIR",
    help="""\
Merges what was learned into the weights and writes open_clip_model.safetensors, open_clip_config.json and a model card
README.md to a new folder, which open_clip loads by itself: open_clip.create_model("local-dir:DIR"). The result is
loaded and compared with the model of the run before the verb ends. What a method keeps beside the weights (heads,
routers, class means) is not part of a checkpoint; the verb and the card say where that changes the answers.

example
  python -m bench export runs/pocket/pocket/lora/0123456789-s0 to=my-model
""",
    call=call_export,
)

ANALYSE = Verb(
    name="analyse",
    summary="measure a model without parts of its weights, and how the subspaces of tasks overlap",
    usage="analyse [RUN] [model=NAME] [stream=NAME] [data=DIR] [KEY=VALUE...]",
    help="""\
Replaces each chosen weight by its principal part, the leading singular directions that hold a share of its energy, and
then by the rest, and measures every test set each time: for every share, in the image tower, in the text tower, and in
both. With RUN the weights are those that a finished run ended with, and its method classifies; otherwise they are those
of model=. It also compares the subspaces of the tasks' features with each other and with the principal subspaces of the
weights. Tables (CSV) and pictures (SVG, PNG) go to OUT/<stream>/<model>/; the same line again replaces them. A run is
not changed. Beside these words it takes stream.KEY, model.KEY, evaluate.KEY, cache.KEY, data, device, threads and
precision, and without RUN seed.

examples
  python -m bench analyse model=pocket stream=pocket
  python -m bench analyse runs/pocket/pocket/lora/0123456789-s0 energies=[0.85,0.95,1]
  python -m bench analyse model=ViT-B-16/openai stream=mtil-order1 data=/data/MTIL towers=[image] maps=[q,k,v,o,fc1,fc2]
""",
    call=call_analyse,
    more_help=_words_of_analyse,
)
