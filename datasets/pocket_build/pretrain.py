"""Pre-train the pocket CLIP from scratch on the captioned corpus and write the model folder, in one run.

The model is an ordinary open_clip ``CLIP`` (``model.py``). Its blocks compute in bfloat16; weights, loss and optimiser
are in float32. The batches come from ``batches.py``: batch n is the same whatever the number of processes that draw
batches. The loss is open_clip's contrastive loss, in which captions of one batch that mean the same (equal keys, see
``captions.py``) share the target, so that they are not each other's wrong answers.

Run ``python pretrain.py --work WORK --out FOLDER``; see README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import open_clip
import sources
import torch
import torch.nn.functional as F
from batches import MIX, Batches
from model import MEAN, STD, build_model, checksums, export, tokenizer_of, write_bpe
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch.utils.data import DataLoader

CLIP_NORM = 1.0
LEAST_RATE = 0.01
"""The learning rate at the end, as a share of the highest."""


@torch.no_grad()
def spectrum(model: CLIP, energy: float = 0.85) -> dict[str, float]:
    """Return the mean number of leading singular directions that hold a share of the squared singular values.

    Returns
    -------
    dict
        For the vision and text attention matrices (q, k, v, o: 128 directions) and MLP matrices (128 directions).
    """
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if ".resblocks." not in name or parameter.ndim != 2:
            continue
        group = ("vision" if name.startswith("visual") else "text") + ("-attn" if ".attn." in name else "-mlp")
        for matrix in parameter.chunk(3) if "in_proj" in name else [parameter]:
            share = torch.linalg.svdvals(matrix.double()).square().cumsum(0)
            counts.setdefault(group, []).append(int((share < energy * share[-1]).sum()) + 1)
    return {group: sum(values) / len(values) for group, values in counts.items()}


def contrastive_loss(logits: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """Return the symmetric contrastive loss; all matches of a row or column share its target."""
    target = match.float()
    rows = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, (target / target.sum(0)).T)
    return (rows + columns) / 2


def optimizer_of(model: CLIP, rate: float, decay: float) -> torch.optim.Optimizer:
    """Return AdamW; vectors and embeddings do not decay."""
    decayed = {name for name, value in model.named_parameters() if value.ndim >= 2 and "embedding" not in name}
    groups = [
        {"params": [value for name, value in model.named_parameters() if name in decayed], "weight_decay": decay},
        {"params": [value for name, value in model.named_parameters() if name not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def rate_at(step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate at a step, counted from 1: a warm-up, then a half cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, step / warmup) * (LEAST_RATE + (1 - LEAST_RATE) * cosine)


def train(args: argparse.Namespace, work: Path) -> None:
    """Train, report and export."""
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_bpe(folder / "bpe.txt.gz")
    device = torch.device(args.device)
    model = build_model(args.seed, args.init_scale).to(device).train()
    batches = Batches(work, tokenizer_of(folder), args.seed, args.batch, device, 2 * args.warmup)
    optimizer = optimizer_of(model, args.lr, args.decay)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(args.steps),
        num_workers=args.workers,
        prefetch_factor=8 if args.workers else None,
        multiprocessing_context="fork" if args.workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )
    log = (folder / "pretrain.log").open("w", encoding="utf-8")

    def say(text: str) -> None:
        """Write a line to the log and to standard output."""
        print(text, flush=True)
        log.write(text + "\n")
        log.flush()

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    settings = {key: value for key, value in vars(args).items() if key not in ("work", "out")}
    say(f"settings {json.dumps(settings)} mix {json.dumps(MIX)}")
    say(f"torch {torch.__version__} open_clip {open_clip.__version__} {name}, corpus {len(batches.kind)} images")
    say(f"parameters {sum(value.numel() for value in model.parameters())}")
    started = last_report = time.time()
    total, waiting = torch.zeros((), device=device), 0.0
    clock = time.time()
    for step, batch in enumerate(loader, 1):
        number, index, tokens, keys = batch
        waiting += time.time() - clock
        pictures = (batches.pictures(number, index) - MEAN) / STD
        tokens, keys = tokens.to(device, non_blocking=True), keys.to(device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate_at(step, args.steps, args.warmup)
        with torch.autocast(device.type, torch.bfloat16):
            images = model.encode_image(pictures)
            texts = model.encode_text(tokens)
        images, texts = (F.normalize(features.float(), dim=-1) for features in (images, texts))
        loss = contrastive_loss(model.logit_scale.exp() * images @ texts.T, keys[:, None] == keys)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
            total += loss.detach()
        if step % args.report == 0 or step == args.steps:
            count = (step - 1) % args.report + 1
            now = time.time()
            sizes = " ".join(f"{group} {value:.0f}" for group, value in spectrum(model).items())
            say(
                f"step {step} loss {total.item() / count:.3f} scale {model.logit_scale.exp().item():.1f} "
                f"seconds {now - started:.0f} images/s {count * args.batch / (now - last_report):.0f} "
                f"waiting for data {100 * waiting / (now - last_report):.0f}% | directions for 85% {sizes}"
            )
            total.zero_()
            waiting, last_report = 0.0, now
        clock = time.time()
    model = model.float().cpu()
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, str(folder / "float32.safetensors")
    )
    export(model, folder)
    log.close()
    checksums(folder)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", help="work folder (default: POCKET_WORK)")
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--init-scale", type=float, default=0.5)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw captions; no batch depends on it")
    parser.add_argument("--report", type=int, default=500, help="steps between reports")
    args = parser.parse_args()
    train(args, sources.work_folder(args.work))


if __name__ == "__main__":
    main()
