"""The command `zsad`: your own images, and the commands of the other packages.

Each of the others is a function of another package, that takes the arguments as a list: an entry point of the
group `zsad.commands`. It is imported when it is called for, so `zsad --help` waits for nothing.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import click

from zsad_predict.options import METHODS, THRESHOLDS, read_options

OTHERS = {
    "prepare": "From a public dataset's download to a prepared folder.",
    "check": "What a run of the book needs: device, weights, datasets, folders.",
    "verify": "Compare the result files of two runs.",
    "params": "The notebooks' parameters, with their meanings.",
}


class Commands(click.Group):
    """`predict`, and those of `OTHERS` that are looked up by name."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*super().list_commands(context), *OTHERS]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in OTHERS:
            return super().get_command(context, name)
        return click.Command(
            name,
            help=OTHERS[name],
            callback=lambda arguments: run_other(name, list(arguments)),
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            context_settings={"ignore_unknown_options": True, "help_option_names": []},
        )


def run_other(name: str, arguments: list[str]) -> None:
    """Run a command of another package; it ends this process with its own exit code."""
    found = list(entry_points(group="zsad.commands", name=name))
    if not found:
        raise click.ClickException(f"zsad {name} is not installed: `make env` in a checkout installs it")
    try:
        command = found[0].load()
    except ModuleNotFoundError as error:
        package = found[0].module.split(".")[0]
        if (error.name or "").split(".")[0] != package:
            raise
        raise click.ClickException(
            f"zsad {name} needs {package}: run it in a checkout of the book"
        ) from error
    if isinstance(command, click.Command):
        command.main(arguments, prog_name=f"zsad {name}")
    sys.exit(command(arguments))


@click.group(cls=Commands, context_settings={"max_content_width": 110})
@click.version_option(package_name="zsad_core", prog_name="zsad")
def main() -> None:
    """Zero-shot visual anomaly detection with CLIP."""


FOLDER = click.Path(path_type=Path)


@main.command(short_help="Score a folder of your own images.")
@click.argument("folder", type=FOLDER)
@click.option("--method", type=click.Choice(METHODS), default="winclip", show_default=True)
@click.option("--normal", type=FOLDER, help="A folder of a few normal images; winclip_plus needs them.")
@click.option("--out", type=FOLDER, help="Where the results go; default: <FOLDER>-scores, here.")
@click.option("--object", "object_name", default="object", show_default=True, help="What is in the images.")
@click.option("--labels", metavar="FILE.csv", help="Columns file and label; or the word folders: good, ok "
              "and normal are normal, all other sub-folders anomalous.")  # fmt: skip
@click.option("--masks", type=FOLDER, help="Masks called like their images, perhaps with _mask.")
@click.option("--threshold", type=float, help="Decide by this number.")
@click.option("--threshold-from", type=click.Choice(THRESHOLDS), default="auto", help="Whose scores set the "
              "threshold; auto: the normal images if there are any, else the folder.")  # fmt: skip
@click.option("--threshold-quantile", type=float, help="Of those scores; default: 1 of normal images, 0.9 of "
              "the folder.")  # fmt: skip
@click.option("--prompts", "prompts_file", type=FOLDER, help="Learned prompts for anomalyclip: safetensors, "
              "or the authors' torch file; default: those of zsad-mini.")  # fmt: skip
@click.option("--heat-maps", type=int, help="Draw so many of the highest only; default: all.")
@click.option("--whole", type=click.Choice(("tiles", "squash")), default="tiles", show_default=True,
              help="How images that are not square are seen.")  # fmt: skip
@click.option(
    "--bits", type=int, default=16, show_default=True, help="Of 16-bit files that the camera fills."
)
@click.option("--profile", default="mini", show_default=True, help="A name in profiles/ or a YAML file.")
@click.option("--model", help="An open_clip architecture, in the place of the profile's.")
@click.option("--weights", help="An open_clip tag, a checkpoint file, or random.")
@click.option("--image-size", type=int, help="Edge of anomalyclip's input in pixels.")
@click.option("--device", help="auto, cpu, cuda, cuda:<number> or mps.")
@click.option("--precision", type=click.Choice(("fp32", "bf16")))
@click.option("--seed", type=int, help="Of RWDA's network and of random weights.")
@click.option("--cache", type=FOLDER, help="What is kept between runs; default: the profile's.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def predict(folder: Path, method: str, out: Path | None, quiet: bool, **options: object) -> None:
    """Scores a folder of your own images: a table, decisions, heat maps, and one page to read.

    \b
    zsad predict photos
    zsad predict photos --method winclip_plus --normal good_ones --object "metal bracket"
    zsad predict photos --model ViT-B-16-plus-240 --weights laion400m_e32

    Nothing else is needed: no labels, no masks, no list of files. Broken files are rows with the reason, and
    the others are scored. Stop it when you like: the same command goes on where it was.

    \b
    exit codes:
      0    every file was scored
      1    nothing was scored: an error, said in one line
      2    the command line is wrong
      3    done, but some files could not be read, or their masks not be used; the table says which and why
      130  stopped by Ctrl-C
    """
    names = ("profile", "model", "weights", "image_size", "device", "precision", "seed", "cache")
    try:
        own = read_options(**_parameters(method, **{name: options.pop(name) for name in names}))
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    out = out or Path(f"{folder.resolve().name}-scores")
    try:
        from zsad_predict.result import summary  # here: --help need not wait for torch
        from zsad_predict.run import score_folder

        result = score_folder(folder, method, options=own, out=out, progress=not quiet, **options)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    if not quiet:
        print(summary(result, out))
    sys.exit(3 if (result.table["error"] != "").any() else 0)


def _parameters(method: str, **given: object) -> dict[str, object]:
    """For `read_options`; model, weights and size are AnomalyCLIP's own for its method."""
    values = {name: given[name] for name in ("profile", "device", "precision", "seed")}
    values["cache_dir"] = None if given["cache"] is None else str(given["cache"])
    prefix = "prompt_" if method == "anomalyclip" else ""
    if given["image_size"] is not None and not prefix:
        raise ValueError("--image-size is for the method anomalyclip; the others take the model's own")
    values |= {f"{prefix}model": given["model"], f"{prefix}weights": given["weights"]}
    return values | {"prompt_image_size": given["image_size"]}


if __name__ == "__main__":
    main(prog_name="zsad")
