"""The peak rates of graphics cards, for the share of them that some work reaches and for estimates of its time."""

from __future__ import annotations

import re

PEAKS: dict[str, dict[str, float]] = {
    "B200": {"fp32": 75, "tf32": 1125, "bf16": 2250, "fp16": 2250},
    "GH200": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4},
    "H200": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4},
    "H200 NVL": {"fp32": 60, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5},
    "H100": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4},
    "H100 NVL": {"fp32": 60, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5},
    "H100 PCIe": {"fp32": 51, "tf32": 378, "bf16": 756, "fp16": 756},
    "A100": {"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312},
    "A40": {"fp32": 37.4, "tf32": 74.8, "bf16": 149.7, "fp16": 149.7},
    "A30": {"fp32": 10.3, "tf32": 82, "bf16": 165, "fp16": 165},
    "A10": {"fp32": 31.2, "tf32": 62.5, "bf16": 125, "fp16": 125},
    "L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362, "fp16": 362},
    "L40": {"fp32": 90.5, "tf32": 90.5, "bf16": 181, "fp16": 181},
    "L4": {"fp32": 30.3, "tf32": 60, "bf16": 121, "fp16": 121},
    "V100": {"fp32": 15.7, "fp16": 125},
    "T4": {"fp32": 8.1, "fp16": 65},
    "RTX 3090": {"fp32": 35.6, "tf32": 35.6, "bf16": 71, "fp16": 71},
    "RTX 4090": {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2},
}
"""Peak rates of products of matrices by name of the card, in 1e12 operations a second, from the makers' data sheets:
dense, with sums in fp32. A precision that a card does not have in hardware is left out."""


def peak_rate(device: str, precision: str) -> float | None:
    """Return the peak rate of a card.

    Parameters
    ----------
    device : str
        Its name as the driver says it, such as ``NVIDIA H100 80GB HBM3``. The longest name of `PEAKS` in it counts.
    precision : {"fp32", "tf32", "bf16", "fp16"}

    Returns
    -------
    float or None
        Operations a second; None for a card or a precision that the table does not have.
    """
    names = [name for name in PEAKS if re.search(rf"\b{re.escape(name)}\b", device)]
    rate = PEAKS[max(names, key=len)].get(precision) if names else None
    return None if rate is None else rate * 1e12
