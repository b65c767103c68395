"""The parser, and what happens to errors: one line and exit code 2, never a traceback unless it is asked for."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from fastsal._version import __version__
from fastsal.cli.errors import Refused, first_line
from fastsal.cli.streams import closed, kept, printable

if TYPE_CHECKING:
    from fastsal.cli.console import Console

# The commands' modules import torch, which takes a second; --help and mistyped arguments should not wait for it.

MODEL_HELP = (
    "demo (built in), module:callable (also from the current folder), FILE.pt2 (torch.export), FILE.pt (TorchScript, "
    "with --trust-code), timm:NAME, torchvision:NAME or hf:NAME"
)


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line; --help says the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(message)} (see {self.prog} --help)\n")


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
    demo.add_argument(
        "--overwrite", action="store_true", help="replace what is there of the same names and not its own"
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
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results of other images that have the same names in DIR"
    )
    parser.add_argument("--layer", metavar="NAME", help="layer for the methods that read one (default: found, printed)")
    parser.add_argument(
        "-O",
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of a method, such as n_masks=8000, or rise.seed=1 for one method alone; repeatable",
    )
    parser.add_argument(
        "--deadline",
        type=_above_zero,
        metavar="SECONDS",
        help="end each method that samples (rise, smooth-grad, ...) before so many seconds, with the map so far",
    )
    parser.add_argument(
        "--tolerance",
        type=_above_zero,
        metavar="ERROR",
        help="end it as soon as its relative error is estimated to be below this, as in 0.05",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--weights", metavar="FILE", help="state dict to load: .safetensors, or .pt of tensors alone")
    model.add_argument(
        "--classes",
        metavar="N|FILE",
        help="the model's own number of classes, or a file with their names, one a line or JSON (default: what the "
        "weights tell)",
    )
    model.add_argument("--untrained", action="store_true", help="random weights: the control to compare a map with")
    model.add_argument(
        "--trust-code",
        action="store_true",
        help="let code in the model's file run: TorchScript, archives that hold some",
    )
    model.add_argument("--device", help="cuda, cpu, ... (default: the GPU where there is one)")
    model.add_argument("--precision", help="float32, bfloat16, float16 or float64 (default: as the model is)")
    model.add_argument(
        "--batch-size", type=_positive, metavar="N", help="rows per model pass (default: fits the memory)"
    )
    model.add_argument("--size", type=_size, metavar="H[xW]", help="input size, in place of the model's own")
    model.add_argument("--mean", type=_numbers, metavar="R,G,B", help="input mean, on values from 0 to 1")
    model.add_argument("--std", type=_numbers, metavar="R,G,B", help="input standard deviation")
    model.add_argument("--class-names", metavar="FILE", help="the outputs' names alone, as --classes reads them")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="opacity of the overlays, 0 to 1 (default: %(default)s)"
    )
    _common(parser)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on a line of standard output, and nothing else"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return number


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    size = _positive(height), _positive(width or height)
    if size[0] * size[1] > 8192 * 8192:
        raise argparse.ArgumentTypeError(f"must be at most 8192x8192 pixels, got {text!r}")
    return size


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"must be one number or three with commas between, got {text!r}")
    return numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code.

    0: all is done. 1: a part failed, and each failure has its line. 2: nothing could be done of what was asked. 130:
    interrupted. 141: whoever read the output has gone.

    Args:
        argv: the arguments. None takes the process's, which is the command's alone then: its standard output is kept
            for the command to the end, whatever the model writes there, and warnings are lines.
    """
    arguments = build_parser().parse_args(argv)
    if argv is None:
        warnings.formatwarning = _warning_line  # type: ignore[assignment]
    with kept(process=argv is None) as out:
        try:
            from fastsal.cli.console import Console

            with Console(arguments.json, out) as console:
                return _told(arguments, console)
        except KeyboardInterrupt:
            exec(
                ""
            )  # CPython remembers an interrupt that passed through an exec() and would end -m by signal, not with 130
            _problem("interrupted")
            return 130
        except BrokenPipeError:
            closed(out)
            return 141


def _told(arguments: argparse.Namespace, console: Console) -> int:
    """Runs the command; an error is a line, and with --json the document if there was none yet."""
    try:
        return _run(arguments, console)
    except BrokenPipeError:
        raise
    except Exception as error:
        if arguments.traceback:
            raise
        refused = isinstance(error, Refused)
        text = first_line(error)
        if not refused and not text.startswith(type(error).__name__):
            text = f"{type(error).__name__}: {text}"
        console.close()
        console.problem(f"error: {text}" + ("" if refused else " (--traceback shows where)"))
        if not console.documents:
            console.document({"fastsal": __version__, "error": text})
        return 2 if refused else 1


def _warning_line(message: Warning | str, category: type[Warning], file: str, at: int, line: str | None = None) -> str:
    return f"fastsal: warning: {printable(str(message))}\n"


def _problem(text: str) -> None:
    if sys.stderr is not None:
        print(f"\nfastsal: {text}", file=sys.stderr)


def _run(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.command == "doctor":
        from fastsal.cli import doctor

        return doctor.run(arguments, console)
    if arguments.command == "tune":
        from fastsal.cli import tune

        return tune.run(arguments, console)
    if arguments.command == "demo":
        from fastsal.cli import demo

        return demo.run(arguments, console)
    from fastsal.cli import explain

    return explain.run(arguments, console)
