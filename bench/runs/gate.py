"""The gate before training: check data and untrained model against the published ones.

Wrong weights, another order of class names, other prompts or another version of a dataset show in the accuracies of the
untrained model, before hours are spent; docs/streams.md says more.
"""

from bench.core.errors import UserError
from bench.data.stream import Stream, ZeroShot
from bench.metrics.matrix import AccuracyMatrix

OFF = "or continue with gate=off"


def check_data(stream: Stream) -> None:
    """Refuse data that are not the published ones: half a dataset gives numbers that look like numbers.

    Raises
    ------
    UserError
        If a dataset of the stream is complete but not the published one.
    """
    if stream.differences:
        named = "; ".join(f"{name} has {problem}" for name, problem in stream.differences.items())
        raise UserError(
            f"the data of stream {stream.registry_name} are not the published ones ({named}): complete them (see "
            f'"python -m bench data {stream.registry_name}") {OFF}'
        )


def check_zero_shot(matrix: AccuracyMatrix, expected: ZeroShot | None) -> list[str]:
    """Check row 0 of a matrix against published accuracies.

    Returns
    -------
    list of str
        What was compared, for the user.

    Raises
    ------
    UserError
        If an accuracy is out of its band; the sentence names the likely causes.
    """
    if expected is None:
        return []
    off, compared = [], 0
    for column, task in enumerate(matrix.tasks):
        if task in expected.expected and matrix.state(0, column) != "missing":
            published, tolerance = expected.expected[task]
            measured = matrix.accuracy(0, column)
            compared += 1
            if abs(measured - published) > tolerance:
                off.append(f"{task} {measured:.1f} instead of {published:.1f} ± {tolerance:g}")
    if off:
        raise UserError(
            f"the untrained model is out of the published band ({expected.source}) on {', '.join(off)}: look for other "
            f"weights, another order of class names, other prompts, or another version of the dataset, {OFF}"
        )
    return [f"gate: the untrained model is within the published band on {compared} test sets"] if compared else []
