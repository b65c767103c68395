"""Trains the built-in demo model and writes everything in fastsal/models/data but DATA.md.

    python -m tools.train_demo

A few minutes on two CPU cores. The seed fixes the data and the order of the steps; the weights' last bits also depend
on the number of threads and on the torch build.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastsal.models.demo_net import DemoNet
from tools import demo_data
from tools.demo_data import SIZE, Canvases, Sources

DATA = Path(__file__).parents[1] / "fastsal" / "models" / "data"
SEED = 0
COLUMNS = 10  # canvases a row of the committed strips
DEMO_PHOTOS = ("chelsea", "coffee", "rocket")


def to_float(images: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts by up to 6 pixels, swaps colour channels, changes the brightness, and dims a few coarse cells.

    The last makes the model used to missing parts of the image, as perturbation methods will show it.
    """
    batch = images.shape[0]
    dy, dx = torch.randint(-6, 7, (2,), generator=generator).tolist()
    padded = functional.pad(images, (6, 6, 6, 6), mode="reflect")
    images = padded[:, :, 6 + dy : 6 + dy + SIZE, 6 + dx : 6 + dx + SIZE]
    images = images[:, torch.randperm(3, generator=generator)]
    gain = 0.7 + 0.4 * torch.rand(batch, 1, 1, 1, generator=generator)
    chosen = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
    cells = chosen & (torch.rand(batch, 1, 8, 8, generator=generator) < 0.12)
    shade = 1 - functional.interpolate(cells.float(), size=SIZE, mode="bilinear", align_corners=False)
    return (images * gain * shade).clamp(0, 1)


def train(canvases: Canvases, steps: int, batch_size: int, seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A trained model in evaluation mode, its weights averaged over the last few hundred steps; prints the loss."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = make()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    images, labels = torch.from_numpy(canvases.images), torch.from_numpy(canvases.labels)
    order = torch.randperm(len(labels), generator=generator)
    position, started, running = 0, time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        if position + batch_size > len(labels):
            order, position = torch.randperm(len(labels), generator=generator), 0
        chosen = order[position : position + batch_size]
        position += batch_size
        batch = augment(to_float(images[chosen].numpy()), generator).contiguous(memory_format=torch.channels_last)
        loss = functional.cross_entropy(model(batch), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        running += float(loss.detach())
        if step % 100 == 0:
            print(f"step {step:5d}  loss {running / 100:.3f}  {time.perf_counter() - started:.0f} s", flush=True)
            running = 0.0
    model.load_state_dict(average.module.state_dict())
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, canvases: Canvases) -> float:
    """Share of the canvases whose digit the model names."""
    images = to_float(canvases.images)
    predicted = torch.cat([model(batch).argmax(1) for batch in images.split(100)])
    return float((predicted == torch.from_numpy(canvases.labels)).float().mean())


def shared_out(held_out: Sources, per_class: int, rng: np.random.Generator) -> Canvases:
    """Held-out canvases with `per_class` different digits of each class, in the order 0, 1, ..., 9, 0, 1, ..."""
    by_class = [rng.permutation(np.flatnonzero(held_out.labels == digit))[:per_class] for digit in range(10)]
    return demo_data.draw(held_out, np.stack(by_class, axis=1).reshape(-1), rng)


def strip(images: np.ndarray) -> Image.Image:
    """Images [n, H, W, ...] side by side, COLUMNS a row."""
    rows = images.reshape(-1, COLUMNS, *images.shape[1:])
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0))


def write_canvases(canvases: Canvases, singles: int) -> None:
    """The strips of canvases and masks, their labels and boxes, and the first `singles` canvases by themselves."""
    strip(canvases.images).save(DATA / "canvases.png", optimize=True)
    strip(canvases.masks.astype(np.uint8) * 255).convert("1").save(DATA / "masks.png", optimize=True)
    boxes = []
    for mask in canvases.masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
    facts = {"size": SIZE, "columns": COLUMNS, "labels": canvases.labels.tolist(), "boxes": boxes}
    (DATA / "canvases.json").write_text(json.dumps(facts) + "\n")
    for index in range(singles):
        name = f"canvas-{index}-digit-{canvases.labels[index]}.png"
        Image.fromarray(canvases.images[index]).save(DATA / name, optimize=True)


def write_photos() -> None:
    """Real photographs, 256 pixels on the shorter side, their middle square."""
    for name in DEMO_PHOTOS:
        image = demo_data.photo(name)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.resize((256, 256), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        square.save(DATA / f"photo-{name}.jpg", quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--canvases", type=int, default=10_000, help="training canvases drawn")
    arguments = parser.parse_args()
    started = time.perf_counter()
    training, held_out = demo_data.sources(held_out=False), demo_data.sources(held_out=True)
    indices = np.arange(arguments.canvases) % len(training.labels)
    drawn = demo_data.draw(training, indices, np.random.default_rng(SEED))
    print(f"{arguments.canvases} training canvases drawn in {time.perf_counter() - started:.0f} s", flush=True)
    model = train(drawn, arguments.steps, arguments.batch_size, SEED, DemoNet)
    seconds = time.perf_counter() - started
    exam = demo_data.draw(held_out, np.tile(np.arange(len(held_out.labels)), 6), np.random.default_rng(SEED + 1))
    packaged = shared_out(held_out, 11, np.random.default_rng(SEED + 2))
    facts = {
        "accuracy": f"{accuracy(model, exam):.4f}",
        "accuracy_canvases": str(len(exam.labels)),
        "accuracy_packaged": f"{accuracy(model, packaged):.4f}",
        "parameters": str(sum(p.numel() for p in model.parameters())),
        "seed": str(SEED),
        "steps": str(arguments.steps),
        "batch_size": str(arguments.batch_size),
        "training_canvases": str(arguments.canvases),
        "seconds": f"{seconds:.0f}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "torch": torch.__version__,
    }
    DATA.mkdir(exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, DATA / "demo.safetensors", metadata=facts)
    (DATA / "demo.safetensors").chmod(0o644)  # readable by all, as the other files are
    write_canvases(packaged, singles=6)
    write_photos()
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
