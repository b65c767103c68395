"""The parser, and what happens to errors: one line and exit code 2, never a traceback unless it is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastsal._version import __version__
from fastsal.cli.errors import Refused

# The commands' modules import torch, which takes a second; --help and mistyped arguments should not wait for it.

MODEL_HELP = (
    "demo (built in), module:callable (also from the current folder), FILE.pt2 (torch.export), FILE.pt (TorchScript), "
    "timm:NAME, torchvision:NAME or hf:NAME"
)


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line; --help says the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = Parser(
        prog="fastsal",
        description="Saliency maps of a PyTorch model's decisions.",
        epilog="Example: fastsal explain cat.jpg --model timm:resnet50 --method gradcam,rise --out maps",
    )
    parser.add_argument("--version", action="version", version=f"fastsal {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _explain(commands.add_parser("explain", help="explain a model's decision on images, into pictures and arrays"))
    demo = commands.add_parser("demo", help="explain the built-in model on real images with every method")
    demo.add_argument(
        "--out", default="demo-output", metavar="DIR", help="folder for the results (default: %(default)s)"
    )
    demo.add_argument("--device", help="cuda, cpu, ... (default: the GPU where there is one)")
    _common(demo)
    doctor = commands.add_parser("doctor", help="versions, devices, backends, and why a backend is not used")
    _common(doctor)
    doctor.add_argument(
        "--native",
        nargs="?",
        const="",
        metavar="FILE",
        help="what the library of compiled kernels has inside; FILE, or FASTSAL_NATIVE_LIBRARY, or the usual places",
    )
    tune = commands.add_parser("tune", help="measure the kernels' block sizes on this machine's GPU, and keep them")
    tune.add_argument("--device", default="cuda", help="which GPU (default: %(default)s)")
    tune.add_argument("--only", default="", metavar="TEXT", help="kernels whose name contains this text")
    tune.add_argument("--out", metavar="FILE", help="table to write (default: the user's own, which fastsal reads)")
    _common(tune)
    return parser


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--model", default="demo", help=f"{MODEL_HELP} (default: demo)")
    parser.add_argument(
        "--method", default="gradcam", metavar="NAME,...", help="methods, or all (default: %(default)s); see the README"
    )
    parser.add_argument(
        "--target", default="auto", metavar="auto|N", help="output to explain (default: the prediction)"
    )
    parser.add_argument("--out", default="fastsal-output", metavar="DIR", help="results (default: %(default)s)")
    parser.add_argument("--layer", metavar="NAME", help="layer for the methods that read one (default: found, printed)")
    parser.add_argument(
        "-O",
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of a method, such as n_masks=8000, or rise.seed=1 for one method alone; repeatable",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--weights", metavar="FILE", help="state dict to load: .safetensors, or .pt of tensors alone")
    model.add_argument("--device", help="cuda, cpu, ... (default: the GPU where there is one)")
    model.add_argument("--precision", help="float32, bfloat16, float16 or float64 (default: as the model is)")
    model.add_argument(
        "--batch-size", type=_positive, metavar="N", help="rows per model pass (default: fits the memory)"
    )
    model.add_argument("--size", type=_size, metavar="H[xW]", help="input size, in place of the model's own")
    model.add_argument("--mean", type=_numbers, metavar="R,G,B", help="input mean, on values from 0 to 1")
    model.add_argument("--std", type=_numbers, metavar="R,G,B", help="input standard deviation")
    model.add_argument("--class-names", metavar="FILE", help="text file with the outputs' names, one a line")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="opacity of the overlays, 0 to 1 (default: %(default)s)"
    )
    _common(parser)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, and nothing else")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return number


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return _positive(height), _positive(width or height)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError(f"must be one number or three with commas between, got {text!r}")
    return numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for a request that cannot be met, 130 when interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        exec(
            ""
        )  # CPython remembers an interrupt that passed through an exec() and would end -m by signal, not with 130
        print("\nfastsal: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said on it, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Refused as error:
        if arguments.traceback:
            raise
        print(f"fastsal: error: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "doctor":
        from fastsal.cli import doctor

        return doctor.run(arguments)
    if arguments.command == "tune":
        from fastsal.cli import tune

        return tune.run(arguments)
    if arguments.command == "demo":
        from fastsal.cli import demo

        return demo.run(arguments)
    from fastsal.cli import explain

    return explain.run(arguments)
