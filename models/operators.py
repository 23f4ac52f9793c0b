"""Write operators.txt: the operators of ONNX's own domains, as the `onnx` package of PyPI knows them.

Run it after a new release of ONNX, when the runtime that is pinned supports it:

    pip install onnx && python models/operators.py > models/operators.txt

Every operator that any version of a domain had is listed; whether the version a file imports has it is for the runtime
to say. The domains for training and previews are left out: what they hold is not served.
"""

import onnx
from onnx import defs

DOMAINS = ["", "ai.onnx.ml"]

# The newest versions that the pinned runtime (1.30.0) loads; the package may be ahead of it.
RUNTIME_IR = 13
RUNTIME_OPSETS = {"": 26, "ai.onnx.ml": 5}


def main() -> None:
    print(f"# Made by operators.py with onnx {onnx.__version__}.")
    print(f"ir_version {min(int(onnx.IR_VERSION), RUNTIME_IR)}")
    names = {domain: set() for domain in DOMAINS}
    newest = dict.fromkeys(DOMAINS, 0)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain in names:
            names[schema.domain].add(schema.name)
            newest[schema.domain] = max(newest[schema.domain], schema.since_version)
    for domain in DOMAINS:
        print(f"domain {domain or 'ai.onnx'} {min(newest[domain], RUNTIME_OPSETS[domain])}")
        for name in sorted(names[domain]):
            print(name)


if __name__ == "__main__":
    main()
