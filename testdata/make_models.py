"""Make the sample models of this folder and their case files.

Everything is made from fixed seeds on one thread, so that a second run in the same environment writes the same bytes.
README.md says what each model is for and how to run this.
"""

import argparse
import os

import casefile
import graph_models
import sklearn_models
import torch_models

SAMPLES = {
    "iris": sklearn_models.iris,
    "iris_v2": sklearn_models.iris_v2,
    "digits": torch_models.digits,
    "external": torch_models.external,
    "sentiment": sklearn_models.sentiment,
    "zipmap_strings": sklearn_models.zipmap_strings,
    "two_io": graph_models.two_io,
    "half": graph_models.half,
    "bfloat": graph_models.bfloat,
    "dynamic": graph_models.dynamic,
    "ints": graph_models.ints,
    "divide": graph_models.divide,
    "scalar": graph_models.scalar,
    "types": graph_models.types,
    "sequence": graph_models.sequence,
    "defaults": graph_models.defaults,
    "rowmix": graph_models.rowmix,
    "slow_run": graph_models.slow_run,
    "canary": graph_models.canary,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help="the models to make (default: all)")
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)), help="folder to write to")
    args = parser.parse_args()
    unknown = set(args.names) - set(SAMPLES)
    if unknown:
        parser.error("no such model: " + ", ".join(sorted(unknown)))
    os.makedirs(os.path.join(args.out, "cases"), exist_ok=True)
    for name in args.names or SAMPLES:
        casefile.write(SAMPLES[name](), args.out)
        print("wrote", name)


if __name__ == "__main__":
    main()
