"""Pre-train the pocket CLIP from scratch on the captioned corpus and write the model folder.

The model is an ordinary open_clip ``CLIP`` (``model.py``). Its two towers run in bfloat16; master weights, loss and
optimiser are in float32; evaluation uses open_clip's own forward pass. The batches come from ``batches.py``.

The loss is open_clip's contrastive loss, in which captions of one batch that mean the same (equal keys, see
``captions.py``) share the target, so that they are not each other's wrong answers.

Run ``python pretrain.py --work WORK --out FOLDER --steps N``; see README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import sources
import torch
import torch.nn.functional as F
from batches import DATA, MIX, Corpus
from model import (
    MEAN,
    MODEL_CFG,
    STD,
    Towers,
    build_model,
    check_towers,
    export,
    load_exported,
    tokenizer_of,
    write_bpe,
)
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file


def load_tasks(folder: Path, split: str) -> list[tuple[str, list[str], torch.Tensor, torch.Tensor]]:
    """Read one split of the pocket tasks: name, prompts, normalised pictures and labels of each task."""
    path = folder / "tasks.json"
    if not path.exists():
        return []
    tasks = []
    for task in json.loads(path.read_text(encoding="utf-8"))["tasks"]:
        part = task["splits"][split]
        sheet = np.asarray(Image.open(folder / part["file"]).convert("RGB"))
        cell = MODEL_CFG["vision_cfg"]["image_size"]
        rows, columns = sheet.shape[0] // cell, sheet.shape[1] // cell
        cells = sheet.reshape(rows, cell, columns, cell, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, cell, cell)
        pictures = (torch.from_numpy(cells[: part["count"]].copy()).float() / 255 - MEAN) / STD
        prompts = [task["template"].format(name) for name in task["classes"]]
        tasks.append((task["name"], prompts, pictures, torch.tensor(part["labels"])))
    return tasks


@torch.no_grad()
def zero_shot(model: CLIP, tokenizer: SimpleTokenizer, tasks: list) -> dict[str, float]:
    """Return zero-shot accuracies in percent."""
    model.eval()
    scores = {}
    for name, prompts, pictures, labels in tasks:
        heads = model.encode_text(tokenizer(prompts), normalize=True)
        logits = [model.encode_image(part, normalize=True) @ heads.T for part in pictures.split(256)]
        found = torch.cat(logits).argmax(1)
        scores[name] = 100 * (found == labels).float().mean().item()
    return scores


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
            share = torch.linalg.svdvals(matrix.float()).square().cumsum(0)
            counts.setdefault(group, []).append(int((share < energy * share[-1]).sum()) + 1)
    return {group: sum(values) / len(values) for group, values in counts.items()}


def show(scores: dict[str, float]) -> str:
    """Format zero-shot accuracies with their mean."""
    if not scores:
        return "no tasks"
    parts = [f"{name} {value:.1f}" for name, value in scores.items()]
    return " ".join([*parts, f"mean {sum(scores.values()) / len(scores):.1f}"])


def contrastive_loss(logits: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """Return the symmetric contrastive loss; all matches of a row or column share its target."""
    target = match.float()
    rows = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, (target / target.sum(0)).T)
    return (rows + columns) / 2


def train(args: argparse.Namespace, work: Path) -> None:
    """Train, report and export."""
    torch.set_num_threads(1)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_bpe(folder / "bpe.txt.gz")
    tokenizer = tokenizer_of(folder)
    model = build_model(args.seed, args.init_scale)
    check_towers(model, tokenizer)
    if args.init:
        model.load_state_dict(load_file(args.init))
    corpus = Corpus(work, tokenizer, args.seed, args.core)
    master = dict(model.named_parameters())
    towers = Towers(model, args.chunks, args.threads)
    decay = [value for name, value in master.items() if value.ndim >= 2 and "embedding" not in name]
    rest = [value for name, value in master.items() if not (value.ndim >= 2 and "embedding" not in name)]
    groups = [{"params": decay, "weight_decay": args.decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    tasks = load_tasks(DATA, "val")
    log = (folder / "pretrain.log").open("w", encoding="utf-8")

    def say(text: str) -> None:
        """Write a line to the log and to standard output."""
        print(text, flush=True)
        log.write(text + "\n")
        log.flush()

    settings = {name: value for name, value in vars(args).items() if name not in ("work", "out", "init")}
    settings["continued"] = bool(args.init)
    say(f"settings {json.dumps(settings)} mix {json.dumps(MIX)}")
    say(f"torch {torch.__version__} open_clip {open_clip.__version__} corpus {len(corpus.kind)} images")
    say(f"parameters {sum(value.numel() for value in master.values())}")
    started, last_report, waiting, total, steps = time.time(), time.time(), 0.0, 0.0, 0
    ahead = towers.pool.submit(corpus.batch, args.batch, False)
    for step in range(1, args.steps + 1):
        rate = min(1.0, step / args.warmup) * (0.99 * 0.5 * (1 + math.cos(math.pi * step / args.steps)) + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        clock = time.time()
        pictures, tokens, match = ahead.result()
        waiting += time.time() - clock
        parts = towers.encode(pictures, tokens)
        ahead = towers.pool.submit(corpus.batch, args.batch, step >= 2 * args.warmup)
        images, texts = towers.features(parts)
        scale = master["logit_scale"]
        loss = contrastive_loss(scale.exp() * images @ texts.T, match)
        loss.backward()
        assert images.grad is not None and texts.grad is not None
        towers.backward(parts, images.grad, texts.grad)
        with torch.no_grad():
            towers.collect(master)
            torch.nn.utils.clip_grad_norm_(master.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scale.clamp_(0, math.log(100))
            towers.update(master)
        total, steps = total + loss.item(), steps + 1
        now = time.time()
        if now - last_report >= args.report or step == args.steps:
            scores = zero_shot(model, tokenizer, tasks or load_tasks(DATA, "val"))
            sizes = " ".join(f"{name} {value:.0f}" for name, value in spectrum(model).items())
            speed = steps * args.batch / (now - last_report)
            say(
                f"step {step} loss {total / steps:.3f} scale {scale.exp().item():.1f} seconds {now - started:.0f} "
                f"images/s {speed:.0f} waiting for data {100 * waiting / (now - last_report):.0f}% | "
                f"val {show(scores)} | directions for 85% {sizes}"
            )
            export(model, folder)
            save_file({name: value.detach().clone() for name, value in master.items()}, str(folder / "master.partial"))
            (folder / "master.partial").replace(folder / "checkpoint.safetensors")
            last_report, waiting, total, steps = time.time(), 0.0, 0.0, 0
    exported = load_exported(folder)
    for split in ("val", "test"):
        say(f"exported weights, {split}: {show(zero_shot(exported, tokenizer, load_tasks(DATA, split)))}")
    log.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", help="work folder (default: POCKET_WORK)")
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=6600)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--init-scale", type=float, default=0.5)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--init", help="float32 checkpoint to continue from, instead of random weights")
    parser.add_argument("--core", type=float, default=0.6, help="share of drawings of the tasks' own classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=4, help="parts of a batch that the threads share")
    parser.add_argument("--report", type=float, default=300, help="seconds between reports")
    args = parser.parse_args()
    train(args, sources.work_folder(args.work))


if __name__ == "__main__":
    main()
