"""Runs the EXPERIMENTS of a paper's package, whose records several notebooks read."""

import argparse
from importlib import import_module

from zsad_papers.common.data import missing
from zsad_papers.common.settings import read_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="a name in profiles/, or a YAML file")
    parser.add_argument("--paper", required=True, help="a folder of zsad_papers")
    parser.add_argument("--dataset", required=True, help="of the paper's EXPERIMENTS")
    arguments = parser.parse_args()
    known = import_module(f"zsad_papers.{arguments.paper}").EXPERIMENTS
    if arguments.dataset not in known:
        parser.error(f"--dataset {arguments.dataset}: expected one of {', '.join(known)}")
    settings = read_settings({"profile": arguments.profile})
    if lacking := missing(settings, known[arguments.dataset]["needs"]):
        parser.error(lacking[0])
    try:
        print(import_module(f"zsad_papers.{arguments.paper}.tables").run(settings, arguments.dataset))
    except FileNotFoundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
