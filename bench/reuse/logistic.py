"""Linear probes: logistic regressions by scikit-learn whose strength is chosen on images that are held out.

`fit` is the probe of a finished run: C is the value of `STRENGTHS` with the best accuracy on held-out training images,
the smallest where several are equally good. Then the regression is fitted to all training images.

`linear_probe` is that of the method ``linear-probe``, which chooses C as CLIP's authors do (arXiv 2103.00020, appendix
A.3): from seven powers of ten, then by halving the distance to the neighbours of the best.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from bench.core.errors import UserError

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse strength of the penalty, that are tried."""

HELD = 4
"""One training image of each class out of so many decides on C."""

WIDEST, APART, FINEST = 6, 2.0, 1 / 8
"""CLIP's search over log10 C: between -6 and 6, first at this distance, in the end at this one."""

ITERATIONS = 1000
"""Iterations of a fit at most, as in CLIP."""


def fit(features: np.ndarray, labels: np.ndarray) -> Any:
    """Fit a logistic regression to features, standardised, with C chosen on held-out ones.

    Parameters
    ----------
    features : float64 array [images, width]
    labels : int array [images]
        At least two classes, one of them with at least two images.

    Returns
    -------
    GridSearchCV
        scikit-learn's, fitted: ``predict`` takes further features, ``best_params_`` has C.

    Raises
    ------
    UserError
        If there are fewer classes or images.
    """
    fold = held_out(labels)
    if len(np.unique(labels)) < 2 or not (fold == 0).any():
        raise UserError(
            "a linear probe needs training images of two classes, and two images of one of them: probe a run on a "
            "stream with more"
        )
    from sklearn.model_selection import GridSearchCV, PredefinedSplit  # a second of imports that nothing else needs
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), _regression(1.0))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=PredefinedSplit(fold))
    return _fitted(search, features, labels)


def held_out(labels: np.ndarray) -> np.ndarray:
    """Return which training images decide on C: of each class every fourth one, counted from its last.

    Parameters
    ----------
    labels : int array [images]

    Returns
    -------
    int array [images]
        0 for held-out images, -1 for the others, as scikit-learn's ``PredefinedSplit`` takes it. A class with a single
        image holds none out.
    """
    fold = np.full(len(labels), -1)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) > 1:
            fold[places[::-1][::HELD]] = 0
    return fold


def _regression(C: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=ITERATIONS)


def _fitted(model: Any, features: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # where classes are apart, small penalties let the weights grow for long
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


# ---------------------------------------------------------------------------------------- CLIP's protocol


class Linear(NamedTuple):
    """A fitted linear classifier: the logits of features z are ``weights z + bias``.

    Attributes
    ----------
    classes : int64 array [classes]
        The labels that had images, ascending.
    weights : float64 array [classes, width]
    bias : float64 array [classes]
    C : float or None
        The inverse strength of the penalty; None where there is one class.
    """

    classes: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    C: float | None


def linear_probe(
    features: np.ndarray, labels: np.ndarray, lent: np.ndarray, further: np.ndarray, further_labels: np.ndarray
) -> Linear:
    """Fit a logistic regression to features as they are, with C chosen by CLIP's protocol.

    Parameters
    ----------
    features : float64 array [images, width]
        Of training images.
    labels : int array [images]
    lent : bool array [images]
        Training images of tasks without validation images: those of them that `held_out` chooses decide on C, and only
        the last fit learns from them.
    further : float64 array [further images, width]
        Of validation images, which decide on C as well and are never learned from.
    further_labels : int array [further images]

    Returns
    -------
    Linear
        Where nothing can decide, C is 1. A single class has weights of 0.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return Linear(classes, np.zeros((len(classes), features.shape[1])), np.zeros(len(classes)), None)
    held = np.zeros(len(labels), dtype=bool)
    held[lent] = held_out(labels[lent]) == 0
    judged, answers = np.concatenate([features[held], further]), np.concatenate([labels[held], further_labels])
    scores: dict[float, float] = {}

    def order(power: float) -> tuple[float, float]:
        if power not in scores:
            model = _fitted(_regression(10.0**power), features[~held], labels[~held])
            scores[power] = float(model.score(judged, answers))
        return scores[power], -power  # of equally good ones the strongest penalty

    power, step = 0.0, APART
    if len(judged):
        power = max((float(p) for p in np.arange(-WIDEST, WIDEST + 1, APART)), key=order)
        while step > FINEST:
            step /= 2
            power = max((p for p in (power - step, power, power + step) if abs(p) <= WIDEST), key=order)
    fitted = _fitted(_regression(10.0**power), features, labels)
    weights, bias = fitted.coef_, fitted.intercept_
    if len(classes) == 2:  # scikit-learn has one row then: the logit of the second class over the first
        weights, bias = np.concatenate([0 * weights, weights]), np.concatenate([0 * bias, bias])
    return Linear(fitted.classes_, weights, bias, 10.0**power)
