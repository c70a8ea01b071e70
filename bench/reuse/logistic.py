"""The linear probe itself: a logistic regression whose strength is chosen on held-out training images by one rule.

C is the value of `STRENGTHS` with the best accuracy on the held-out images, the smallest where several are equally
good. Then the regression is fitted to all training images.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from bench.core.errors import UserError

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse strength of the penalty, that are tried."""

HELD = 4
"""One training image of each class out of so many decides on C."""


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
    from sklearn.exceptions import ConvergenceWarning  # a second of imports that nothing else needs
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=PredefinedSplit(fold))
    with warnings.catch_warnings():  # where classes are apart, small penalties let the weights grow for long
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(features, labels)


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
